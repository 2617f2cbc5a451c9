// Building elements, marking search hits, writing numbers. Text always enters the page as text nodes.

const find = (id) => document.getElementById(id);

/** An element: make("button.quiet", {title: "…", onclick: f}, "text", child, …). */
function make(kind, given = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** The text with what `pattern` finds (null: nothing) in <mark>. */
function marked(text, pattern) {
  const part = document.createDocumentFragment();
  let from = 0;
  if (pattern) {
    for (const hit of text.matchAll(pattern)) {
      part.append(text.slice(from, hit.index), make("mark", {}, hit[0]));
      from = hit.index + hit[0].length;
    }
  }
  part.append(text.slice(from));
  return part;
}

const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** A measure's value as it is written everywhere. */
function written(measure, value) {
  if (value === null || value === undefined) return "–";
  if (measure.unit === "share") return `${(100 * value).toFixed(value > 0 && value < 0.0995 ? 1 : 0)}%`;
  return value.toFixed(measure.unit === "words" ? 1 : 2);
}

const SVG = "http://www.w3.org/2000/svg";
function drawing(box, path) {
  const node = document.createElementNS(SVG, "svg"), line = document.createElementNS(SVG, "path");
  node.setAttribute("viewBox", box);
  node.setAttribute("preserveAspectRatio", "none");
  node.setAttribute("aria-hidden", "true");
  line.setAttribute("d", path);
  node.append(line);
  return node;
}
