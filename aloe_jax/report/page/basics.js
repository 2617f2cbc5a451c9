// Building elements and writing numbers. Texts of people and models always enter the page as text nodes.

const find = (id) => document.getElementById(id);
const data = JSON.parse(find("data").textContent);

/** An element: make("button.small", {title: "…", onclick: f}, "text", child, …). */
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

const fixed = (value, digits = 2) => value.toFixed(digits).replace("-", "−");

/** A value of a chart in its unit. */
function written(unit, value) {
  if (value === null || value === undefined) return "–";
  if (unit === "share") return `${fixed(100 * value, 1)}%`;
  return fixed(value, unit === "words" ? 1 : 2);
}

/** A rating, with one decimal where the votes differ. */
const rated = (value) => (value === null ? "–" : Number.isInteger(value) ? String(value) : fixed(value, 1));

const swatches = new Map();
/** The drawing of an entry's line, copied from the page. */
function swatch(entry) {
  if (!swatches.has(entry)) swatches.set(entry, document.querySelector(`[data-show="${entry}"] .swatch`));
  return swatches.get(entry)?.cloneNode(true) ?? null;
}
