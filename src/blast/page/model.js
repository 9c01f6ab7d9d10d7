"use strict";
// The graph of a document and the formula of its score: as src/blast/walk.rs and score.rs have them. A test holds the two together.
function makeModel(doc) {
  const w = doc.weights;
  const tools = new Map(doc.nodes.tools.map((t) => [t.id, { node: t, grants: [], held: [], findings: [] }]));
  const secrets = new Map(doc.nodes.secrets.map((s) => [s.id, { node: s, reaches: [], unlocks: [], source: null, tools: [], held: [], findings: [] }]));
  const sources = new Map(doc.nodes.sources.map((s) => [s.id, { node: s, secrets: [] }]));
  const systems = new Map(doc.nodes.systems.map((s) => [s.id, { node: s, secrets: [] }]));
  for (const e of doc.edges) {
    if (e.kind === "allowed") {
      const secret = secrets.get(e.to);
      if (!secret) continue;
      tools.get(e.from).grants.push(e);
      secret.tools.push(e);
    } else if (e.kind === "reaches") {
      secrets.get(e.from).reaches.push(e);
      systems.get(e.to).secrets.push(e);
    } else if (e.kind === "unlocks") secrets.get(e.from).unlocks.push(e);
    else if (e.kind === "stored") {
      secrets.get(e.from).source = e.to;
      sources.get(e.to).secrets.push(e.from);
    } else if (e.kind === "held") {
      const id = "secret:" + e.to.slice("version:".length, e.to.indexOf("@"));
      const held = { edge: e, secret: id, tool: e.from };
      tools.get(e.from).held.push(held);
      if (secrets.has(id)) secrets.get(id).held.push(held);
    }
  }
  for (const f of doc.findings) {
    if (f.excluded) continue;
    const tool = f.tool && tools.get("tool:" + f.tool);
    const secret = f.secret && secrets.get("secret:" + f.secret);
    if (tool) tool.findings.push(f);
    else if (secret) secret.findings.push(f);
  }

  const own = (o, key) => (Object.hasOwn(o, key) ? o[key] : undefined);
  const sensitivity = (system, environment) => {
    const known = (system !== null ? own(w.system, system) : undefined) ?? (environment ? own(w.environment, environment) : undefined);
    return known === undefined ? w.unknown.sensitivity : [known, known];
  };
  const times = (range, factor) => [range[0] * factor, range[1] * factor];
  const most = (a, b) => [Math.max(a[0], b[0]), Math.max(a[1], b[1])];
  const percent = (range) => range.map((part) => Math.round(Math.min(Math.max(part, 0), 1) * 100));
  const undeclared = (s) => s.reaches.length === 0 && !s.node.canary && s.unlocks.length === 0;

  // From these pairs of a secret and the exposure of its delivery to all that they open.
  function walk(starts) {
    const steps = [];
    const seen = new Set();
    const opened = new Set();
    const found = new Map();
    let unknown = [0, 0];
    let depth = [0, 0];
    let unknowns = 0;
    const look = (place, factor) => {
      const step = steps[place];
      const secret = secrets.get(step.secret);
      const lifetime = secret.node.rotate_every_seconds === null ? w.lifetime.static : w.lifetime.rotated;
      if (undeclared(secret)) {
        const s = sensitivity(null, secret.node.environment);
        const part = [s[0] * w.unknown.privilege[0], s[1] * w.unknown.privilege[1]];
        const risk = times(part, lifetime * factor);
        unknown = [unknown[0] + risk[0], unknown[1] + risk[1]];
        depth = most(depth, part);
        unknowns += 1;
      }
      for (const way of secret.reaches) {
        const part = times(sensitivity(way.to.slice("system:".length), secret.node.environment), w.privilege[way.privilege]);
        const risk = times(part, lifetime * factor);
        depth = most(depth, part);
        const before = found.get(way.to);
        if (!before) found.set(way.to, { system: way.to, privilege: way.privilege, risk, by: place });
        else {
          before.risk = most(before.risk, risk);
          if (w.privilege[way.privilege] > w.privilege[before.privilege]) before.privilege = way.privilege;
        }
      }
    };
    const take = (secret, depth, from, via) => {
      if (seen.has(secret) || !secrets.has(secret)) return -1;
      seen.add(secret);
      steps.push({ secret, depth, from, via });
      return steps.length - 1;
    };
    for (const [secret, exposure] of starts) {
      const place = take(secret, 0, -1, null);
      if (place >= 0) look(place, exposure);
    }
    for (let at = 0; at < steps.length; at += 1) {
      for (const unlock of secrets.get(steps[at].secret).unlocks) {
        if (opened.has(unlock.to)) continue;
        opened.add(unlock.to);
        const further = steps[at].depth + 1;
        for (const secret of sources.get(unlock.to).secrets) {
          const place = take(secret, further, at, unlock.to);
          if (place >= 0) look(place, Math.pow(w.discount, further));
        }
      }
    }
    let risk = unknown;
    for (const one of found.values()) risk = [risk[0] + one.risk[0], risk[1] + one.risk[1]];
    const direct = steps.filter((step) => step.depth === 0).length;
    const path = (place) => {
      const stops = [];
      for (let at = place; at >= 0; at = steps[at].from) {
        stops.unshift(steps[at].secret);
        if (steps[at].via) stops.unshift(steps[at].via);
      }
      return stops;
    };
    return {
      score: percent(risk.map((part) => 1 - Math.exp(-part / w.scale))),
      depth: percent(depth),
      secrets: direct,
      beyond: steps.length - direct,
      systems: [...found.values()].sort((a, b) => b.risk[1] - a.risk[1] || b.risk[0] - a.risk[0] || (a.system < b.system ? -1 : 1)),
      undeclared: unknowns,
      opened: [...opened],
      path,
    };
  }
  const ofTool = (id, without) => {
    const grants = tools.get(id).grants.filter((e) => !without || !without.has(e.from + "\n" + e.to));
    return walk(grants.map((e) => [e.to, w.channel[e.channel]]));
  };
  const ofSecret = (id) => walk([[id, 1]]);
  return { doc, tools, secrets, sources, systems, ofTool, ofSecret };
}
