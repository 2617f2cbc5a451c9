// Search hits marked, numbers written, small drawings.

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
