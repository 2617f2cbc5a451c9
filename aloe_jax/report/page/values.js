// The data of the page, and how numbers are written.

const data = JSON.parse(find("data").textContent);

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
