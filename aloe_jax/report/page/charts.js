// Charts: reading them out at a turn, by pointer or by arrow keys, and switching models on and off in all of them.

const hidden = new Set();

/** Whose line a number of a chart is: as the chart names it, an entry of the report, or a model of the preference scoring. */
function nameOf(plot, entry, line) {
  const { names } = data.charts[plot.dataset.chart];
  if (names) return names[line];
  if (!plot.dataset.chart.startsWith("preferences-")) return [data.entries[entry].label, data.entries[entry].style];
  const head = document.querySelectorAll("#preferences > .card tbody th")[entry];
  return [head.querySelector(".model > span").textContent, head.className];
}

function readOut(plot, turn) {
  const tip = plot.querySelector(".tip"), columns = plot.querySelectorAll(".column");
  for (const column of columns) column.classList.toggle("on", Number(column.dataset.turn) === turn);
  tip.style.visibility = turn < 0 ? "hidden" : "visible";
  plot.dataset.turn = turn;
  if (turn < 0) return tip.replaceChildren();
  const { unit, lines, steps } = data.charts[plot.dataset.chart];
  const own = !plot.dataset.chart.startsWith("preferences-");
  const rows = lines
    .map((line, number) => [...line, number])
    .filter(([entry, values]) => values[turn] !== null && values[turn] !== undefined && !(own && hidden.has(entry)))
    .sort((a, b) => b[1][turn] - a[1][turn])
    .map(([entry, values, low, high, number]) => {
      const [label, style] = nameOf(plot, entry, number), known = low.length && low[turn] !== null;
      return make(`tr.${style}`, {}, make("td", {}, label), make("td", {}, written(unit, values[turn])),
        make("td.soft", {}, known ? `${written(unit, low[turn])} to ${written(unit, high[turn])}` : ""));
    });
  tip.replaceChildren(make("b", {}, steps ? `Step ${steps[turn]}` : `Turn ${turn + 1}`), make("table", {}, make("tbody", {}, ...rows)));
  const box = columns[turn].getBoundingClientRect(), base = plot.getBoundingClientRect();
  const middle = box.left + box.width / 2 - base.left + plot.scrollLeft, room = base.width + plot.scrollLeft;
  const left = middle + 14 + tip.offsetWidth > room ? middle - 14 - tip.offsetWidth : middle + 14;
  tip.style.left = `${Math.max(0, left)}px`;
  tip.style.top = "8px";
}

for (const plot of document.querySelectorAll(".plot")) {
  const columns = plot.querySelectorAll(".column");
  for (const column of columns) {
    column.addEventListener("pointerenter", () => readOut(plot, Number(column.dataset.turn)));
  }
  plot.addEventListener("pointerleave", () => readOut(plot, -1));
  plot.addEventListener("blur", () => readOut(plot, -1));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") readOut(plot, -1);
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const turn = Number(plot.dataset.turn ?? -1) + step;
    readOut(plot, Math.max(0, Math.min(columns.length - 1, turn)));
  });
}

function toggleLine(entry) {
  if (!hidden.delete(entry)) hidden.add(entry);
  for (const button of document.querySelectorAll(`[data-show="${entry}"]`)) {
    button.setAttribute("aria-pressed", !hidden.has(entry));
  }
  for (const part of document.querySelectorAll(`.plot:not([data-chart^="preferences-"]) .e[data-entry="${entry}"]`)) {
    part.classList.toggle("off", hidden.has(entry));
  }
}
for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => toggleLine(Number(button.dataset.show)));
}
