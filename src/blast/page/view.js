// What is shown: a table first, then one thing and its graph. Text is set, never parsed.
function startView(model, open) {
  const { doc, tools, secrets, systems } = model;
  const app = document.getElementById("app");
  const el = (name, attributes, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const range = (both) => (both[0] === both[1] ? String(both[0]) : `${both[0]}-${both[1]}`);
  const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
  const numbers = new Set(["Score", "Depth", "Systems", "Secrets", "Beyond", "Unknown", "Held now", "Held by", "Findings", "Tools"]);
  const isNumber = ([title]) => numbers.has(title);
  const bare = (id) => id.slice(id.indexOf(":") + 1);
  const by = (e) => [e.variable ? `${e.channel} ${e.variable}` : e.channel, e.remote && "over the network too"].filter(Boolean).join(", ");
  const who = (edge) => edge.remote || `pid ${edge.pid}`;
  const removed = new Set();
  const state = { tab: "tools", sort: {}, text: "", most: 100, chosen: null };

  const severity = { error: 3, warning: 2, note: 1 };
  const tables = {
    tools: {
      title: "Tools",
      rows: () => [...tools.values()],
      id: (t) => t.node.id,
      columns: [
        ["Tool", (t) => t.node.name],
        ["Score", (t) => range(t.node.score), (t) => t.node.score[1] * 1000 + t.node.score[0]],
        ["Depth", (t) => range(t.node.depth), (t) => t.node.depth[1] * 1000 + t.node.depth[0]],
        ["Systems", (t) => t.node.systems],
        ["Secrets", (t) => t.node.secrets],
        ["Beyond", (t) => t.node.beyond],
        ["Unknown", (t) => t.node.undeclared],
        ["Held now", (t) => (t.node.held === null ? "?" : t.node.held)],
        ["Findings", (t) => t.findings.length],
        ["Worst", (t) => (t.node.worst ? `${t.node.worst.privilege} on ${t.node.worst.system}` : "")],
      ],
      first: 1,
    },
    secrets: {
      title: "Secrets",
      rows: () => [...secrets.values()],
      id: (s) => s.node.id,
      columns: [
        ["Secret", (s) => s.node.name],
        ["Tools", (s) => s.tools.length],
        ["Held by", (s) => (doc.view === "live" ? s.held.length : "?")],
        ["Environment", (s) => s.node.environment || "?"],
        ["Opens", (s) => s.reaches.map((e) => `${bare(e.to)} (${e.privilege})`).concat(s.unlocks.map((e) => `source ${bare(e.to)}`)).join(", ") || (s.node.canary ? "nothing: a canary" : "?")],
        ["Source", (s) => (s.source ? bare(s.source) : "")],
      ],
      first: 1,
    },
    systems: {
      title: "Systems",
      rows: () => [...systems.values()],
      id: (s) => s.node.id,
      columns: [
        ["System", (s) => s.node.name],
        ["Secrets", (s) => s.secrets.length],
        ["Tools", (s) => new Set(s.secrets.flatMap((e) => secrets.get(e.from).tools.map((grant) => grant.from))).size],
        ["Privilege", (s) => ["admin", "write", "read"].find((p) => s.secrets.some((e) => e.privilege === p)) || ""],
      ],
      first: 2,
    },
    findings: {
      title: "Findings",
      rows: () => doc.findings,
      id: (f) => (f.tool && tools.has("tool:" + f.tool) ? "tool:" + f.tool : f.secret ? "secret:" + f.secret : null),
      columns: [
        ["Rule", (f) => f.id],
        ["Level", (f) => (f.excluded ? `excluded: ${f.excluded.reason}` : f.level), (f) => (f.excluded ? 0 : severity[f.level])],
        ["What", (f) => f.what],
        ["Instead", (f) => f.instead],
        ["Where", (f) => `${f.file}:${f.line}`],
      ],
      first: 1,
    },
  };

  function tabs() {
    const bar = el("div", { role: "tablist", class: "tabs" });
    for (const [key, table] of Object.entries(tables)) {
      const pick = () => {
        Object.assign(state, { tab: key, most: 100 });
        render();
      };
      bar.append(el("button", { role: "tab", "aria-selected": String(state.tab === key), onclick: pick }, `${table.title} (${table.rows().length})`));
    }
    const search = el("input", { type: "search", id: "search", placeholder: "Search (/)", "aria-label": "Search", value: state.text });
    search.value = state.text;
    search.addEventListener("input", () => {
      state.text = search.value;
      state.most = 100;
      listing.replaceChildren(...list());
    });
    bar.append(search);
    return bar;
  }

  function list() {
    const table = tables[state.tab];
    const [at, down] = state.sort[state.tab] || [table.first, true];
    const [, show, order] = table.columns[at];
    const key = order || show;
    const text = state.text.toLowerCase();
    let rows = table.rows();
    if (text) rows = rows.filter((row) => table.columns.some(([, cell]) => String(cell(row)).toLowerCase().includes(text)));
    const keyed = rows.map((row) => [key(row), row]);
    keyed.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1));
    const head = table.columns.map(([title], column) => {
      const sort = () => {
        state.sort[state.tab] = [column, column === at ? !down : isNumber(table.columns[column])];
        listing.replaceChildren(...list());
      };
      const way = column === at ? (down ? "descending" : "ascending") : "none";
      return el("th", { scope: "col", "aria-sort": way, class: isNumber(table.columns[column]) ? "number" : null }, el("button", { onclick: () => rows.length && sort() }, title));
    });
    const body = keyed.slice(0, state.most).map(([, row]) => {
      const id = table.id(row);
      const cells = table.columns.map(([, cell], column) => {
        const words = String(cell(row));
        const link = column === 0 && id ? el("button", { class: "pick", onclick: () => choose(id) }, words) : words;
        return el("td", { class: isNumber(table.columns[column]) ? "number" : null }, link);
      });
      return el("tr", { "aria-current": id && id === state.chosen ? "true" : null }, ...cells);
    });
    const more = keyed.length - state.most;
    const next = () => {
      state.most += 500;
      listing.replaceChildren(...list());
    };
    const caption = el("caption", {}, `${table.title}: ${keyed.length}${more > 0 ? `, the first ${state.most} shown` : ""}`);
    const made = el("table", {}, caption, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body));
    return more > 0 ? [made, el("button", { onclick: next }, `Show more (${more})`)] : [made];
  }

  const listing = el("div", { class: "list" });
  const detail = el("section", { class: "detail", "aria-live": "polite", id: "detail" });

  function choose(id) {
    if (!tools.has(id) && !secrets.has(id) && !systems.has(id)) return;
    state.chosen = id;
    // For the way back, and for a link to it.
    if (location.hash !== "#" + encodeURIComponent(id)) history.replaceState(null, "", "#" + encodeURIComponent(id));
    show();
    listing.replaceChildren(...list());
    detail.scrollIntoView({ block: "nearest" });
  }
  const chooseNamed = (kind, name) => choose(`${kind}:${name}`);

  function show() {
    const id = state.chosen;
    detail.replaceChildren();
    if (!id) return;
    if (tools.has(id)) showTool(id);
    else if (secrets.has(id)) showSecret(id);
    else showSystem(id);
  }

  const sentence = (found) =>
    `${count(found.systems.length, "system")} by ${count(found.secrets, "secret")}` +
    (found.beyond ? ` and ${found.beyond} more at their sources` : "") +
    (found.undeclared ? `, ${found.undeclared} of unknown reach` : "");
  const findingsOf = (list) => (list.length ? el("ul", { class: "findings" }, ...list.map((f) => el("li", { class: f.level }, `${f.id} ${f.what} (${f.file}:${f.line})`))) : null);
  const pathWords = (stops) => stops.map((stop) => (stop.startsWith("source:") ? `[source ${bare(stop)}]` : bare(stop))).join(" \u2192 ");

  function systemsTable(found) {
    const rows = found.systems.slice(0, 200).map((one) =>
      el("tr", {}, el("td", {}, el("button", { class: "pick", onclick: () => choose(one.system) }, bare(one.system))), el("td", {}, one.privilege), el("td", {}, pathWords(found.path(one.by)))),
    );
    return el("table", {}, el("thead", {}, el("tr", {}, el("th", {}, "System"), el("th", {}, "Privilege"), el("th", {}, "By"))), el("tbody", {}, ...rows));
  }

  function graphOf(start, grants, found) {
    const onWay = new Set(found.systems.slice(0, 14).flatMap((one) => found.path(one.by)));
    const direct = new Set(grants.map((e) => e.to));
    const further = [...onWay].filter((id) => id.startsWith("secret:") && !direct.has(id) && id !== start);
    const lines = grants.map((e) => ({ from: e.from, to: e.to, label: e.remote ? `${e.channel}, network too` : e.channel }));
    const shownSecrets = [...direct, ...further, ...(start.startsWith("secret:") ? [start] : [])];
    for (const id of shownSecrets) {
      const secret = secrets.get(id);
      for (const e of secret.reaches) lines.push({ from: id, to: e.to, label: e.privilege });
      for (const e of secret.unlocks) lines.push({ from: id, to: e.to, label: "opens", dashed: e.sure === "derived" });
    }
    for (const id of further) lines.push({ from: secrets.get(id).source, to: id, label: "gives", dashed: true });
    const middle = start.startsWith("secret:") ? [[...new Set(grants.map((e) => e.from))], [start]] : [[start], [...direct]];
    return drawGraph([...middle, found.opened, further, found.systems.map((one) => one.system)], lines, chooseNamed);
  }

  function showTool(id) {
    const tool = tools.get(id);
    const before = model.ofTool(id);
    const now = model.ofTool(id, removed);
    const changed = tool.grants.some((e) => removed.has(e.from + "\n" + e.to));
    const kept = tool.grants.filter((e) => !removed.has(e.from + "\n" + e.to));
    const lost = before.systems.filter((one) => !now.systems.some((other) => other.system === one.system)).map((one) => bare(one.system));
    const verdict = changed
      ? `Without what is unticked: score ${range(now.score)} in place of ${range(before.score)}; ${sentence(now)}` + (lost.length ? `. No longer reached: ${lost.join(", ")}` : "")
      : `If it is compromised: ${sentence(before)}. Score ${range(before.score)}, depth ${range(before.depth)}. Untick a grant to see what is left without it.`;
    const grants = tool.grants.map((e) => {
      const key = e.from + "\n" + e.to;
      const box = el("input", { type: "checkbox", "aria-label": `may have ${bare(e.to)}` });
      box.checked = !removed.has(key);
      box.addEventListener("change", () => {
        if (box.checked) removed.delete(key);
        else removed.add(key);
        show();
        document.querySelector(`#detail input[data-key="${CSS.escape(e.to)}"]`)?.focus();
      });
      box.setAttribute("data-key", e.to);
      const secret = secrets.get(e.to);
      const held = tool.held.filter((one) => one.secret === e.to).map(({ edge }) => `held by ${who(edge)} since ${edge.since}${edge.retired ? ", no longer current" : ""}`);
            return el("tr", {}, el("td", {}, box), el("td", {}, el("button", { class: "pick", onclick: () => choose(e.to) }, bare(e.to))), el("td", {}, by(e)), el("td", { class: "number" }, String(secret.tools.length - 1)), el("td", {}, held.join("; ")), el("td", {}, e.at || ""));
    });
    const titles = ["", "May have", "By", "Others who may", "Now", "Where"].map((title) => el("th", {}, title));
    detail.append(el("h2", {}, `Tool ${tool.node.name}`), el("p", { class: changed ? "verdict changed" : "verdict" }, verdict));
    if (tool.node.description) detail.append(el("p", {}, tool.node.description));
    detail.append(...[findingsOf(tool.findings)].filter(Boolean), graphOf(id, kept, now));
    detail.append(el("table", {}, el("thead", {}, el("tr", {}, ...titles)), el("tbody", {}, ...grants)));
    if (changed) {
      const gone = [...removed].filter((key) => key.startsWith(id + "\n")).map((key) => tool.grants.find((e) => e.to === key.slice(id.length + 1)));
      detail.append(el("pre", {}, gone.map((e) => `${e.at}: take out the grant of ${bare(e.to)}`).join("\n")));
      const reset = () => {
        for (const e of tool.grants) removed.delete(e.from + "\n" + e.to);
        show();
      };
      detail.append(el("button", { onclick: reset }, "As policy is"));
    }
    detail.append(el("h3", {}, "Systems, worst first"), systemsTable(now));
  }

  function showSecret(id) {
    const secret = secrets.get(id);
    const found = model.ofSecret(id);
    detail.append(el("h2", {}, `Secret ${secret.node.name}`));
    const opens = secret.node.canary ? "a canary: it opens nothing" : `it opens ${count(found.systems.length, "system")}` + (found.beyond ? `, and ${count(found.beyond, "secret")} at sources` : "") + (found.undeclared ? "; what of it is unknown" : "");
    detail.append(el("p", { class: "verdict" }, `If it leaked: ${opens}. ${count(secret.tools.length, "tool")} may have it` + (doc.view === "live" ? `; sessions that hold it now: ${secret.held.length}.` : ".")));
    detail.append(...[findingsOf(secret.findings)].filter(Boolean), graphOf(id, secret.tools, found));
    const rows = secret.tools.map((e) => {
      const held = secret.held.filter((one) => one.tool === e.from).map(({ edge }) => `${who(edge)}: ${edge.to.slice(edge.to.indexOf("@") + 1)} since ${edge.since}${edge.retired ? ", no longer current" : ""}`);
      return el("tr", {}, el("td", {}, el("button", { class: "pick", onclick: () => choose(e.from) }, bare(e.from))), el("td", {}, by(e)), el("td", {}, held.join("; ")), el("td", {}, e.at || ""));
    });
    detail.append(el("table", {}, el("thead", {}, el("tr", {}, ...["Tool", "By", "Holds", "Where"].map((title) => el("th", {}, title)))), el("tbody", {}, ...rows)));
    detail.append(el("h3", {}, "Systems, worst first"), systemsTable(found));
  }

  function showSystem(id) {
    const system = systems.get(id);
    const grants = system.secrets.flatMap((e) => secrets.get(e.from).tools);
    const columns = [[...new Set(grants.map((e) => e.from))], system.secrets.map((e) => e.from), [id]];
    const lines = [...grants.map((e) => ({ from: e.from, to: e.to, label: e.remote ? `${e.channel}, network too` : e.channel })), ...system.secrets.map((e) => ({ from: e.from, to: id, label: e.privilege }))];
    detail.append(el("h2", {}, `System ${system.node.name}`), el("p", { class: "verdict" }, `${count(columns[0].length, "tool")} may have one of ${count(columns[1].length, "secret")} that open it; ways through a source are with each tool.`));
    detail.append(drawGraph(columns, lines, chooseNamed));
    const rows = system.secrets.flatMap((e) => secrets.get(e.from).tools.map((grant) => el("tr", {}, el("td", {}, el("button", { class: "pick", onclick: () => choose(grant.from) }, bare(grant.from))), el("td", {}, e.privilege), el("td", {}, el("button", { class: "pick", onclick: () => choose(e.from) }, bare(e.from))))));
    detail.append(el("table", {}, el("thead", {}, el("tr", {}, ...["Tool", "Privilege", "By"].map((title) => el("th", {}, title)))), el("tbody", {}, ...rows)));
  }

  const bar = el("div");
  function render() {
    bar.replaceChildren(tabs());
    listing.replaceChildren(...list());
  }
  const seen = doc.view === "live" ? "what is held now is known" : "from configuration alone: what is held now is not known";
  const usage = doc.usage ? `; used: ${doc.usage.since} to ${doc.usage.until}` : "; what is used is not known";
  const names = doc.pseudonymised ? "; names are pseudonyms" : "";
  app.append(el("p", { class: "facts" }, `${doc.configuration}, ${doc.made}; ${seen}${usage}${names}.`), bar, listing, detail);
  document.addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLInputElement && event.target.type === "search";
    if (event.key === "/" && !typing) {
      event.preventDefault();
      document.getElementById("search").focus();
    } else if (event.key === "Escape" && typing) {
      event.target.value = state.text = "";
      listing.replaceChildren(...list());
    } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !typing) {
      const rows = [...listing.querySelectorAll("button.pick")];
      const at = rows.indexOf(document.activeElement);
      if (at < 0) return;
      event.preventDefault();
      rows[Math.min(Math.max(at + (event.key === "ArrowDown" ? 1 : -1), 0), rows.length - 1)].focus();
    }
  });
  addEventListener("hashchange", () => choose(decodeURIComponent(location.hash.slice(1))));
  render();
  const asked = open.about === "everything" ? decodeURIComponent(location.hash.slice(1)) : `${open.about}:${open.name}`;
  if (asked) choose(asked);
}

if (typeof document !== "undefined") {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  startView(makeModel(read("data")), read("open"));
}
