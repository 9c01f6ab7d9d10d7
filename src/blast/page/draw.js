// A small graph in columns: what was chosen, and what leads on from it.
function drawGraph(columns, lines, choose) {
  const ns = "http://www.w3.org/2000/svg";
  const make = (name, attributes, text) => {
    const node = document.createElementNS(ns, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const shown = columns.filter((column) => column.length > 0).map((column) => column.slice(0, 14));
  const wide = 210, gap = 80, row = 36, high = 26;
  const rows = Math.max(1, ...shown.map((column) => column.length));
  const width = shown.length * (wide + gap) - gap + 4, height = rows * row + 4;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, class: "graph", role: "img", "aria-label": "What leads to what" });
  const places = new Map();
  shown.forEach((column, x) => column.forEach((id, y) => places.set(id, [2 + x * (wide + gap), 2 + y * row])));
  // Words at one end stand beside each other.
  const taken = new Map();
  for (const line of lines) {
    const from = places.get(line.from), to = places.get(line.to);
    if (!from || !to) continue;
    const back = to[0] < from[0];
    const [x1, y1] = [from[0] + (back ? 0 : wide), from[1] + high / 2];
    const [x2, y2] = [to[0] + (back ? wide : 0), to[1] + high / 2];
    const bend = back ? -gap / 2 : gap / 2;
    const path = make("path", { d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`, class: line.dashed ? "line dashed" : "line" });
    path.append(make("title", {}, line.label));
    const used = taken.get(line.to) || 4;
    taken.set(line.to, used + line.label.length * 5.5 + 8);
    svg.append(path, make("text", { x: x2 - (back ? -used : used), y: y2 - 5, class: "label", "text-anchor": back ? "start" : "end" }, line.label));
  }
  for (const [id, [x, y]] of places) {
    const split = id.indexOf(":");
    const kind = id.slice(0, split), name = id.slice(split + 1);
    const group = make("g", { class: "node " + kind, tabindex: "0", role: "link", "aria-label": `${kind} ${name}` });
    group.append(make("title", {}, id), make("rect", { x, y, width: wide, height: high, rx: 4 }));
    group.append(make("text", { x: x + 8, y: y + 17 }, name.length > 28 ? name.slice(0, 27) + "\u2026" : name));
    const go = () => choose(kind, name);
    group.addEventListener("click", go);
    group.addEventListener("keydown", (event) => event.key === "Enter" && go());
    svg.append(group);
  }
  return svg;
}
