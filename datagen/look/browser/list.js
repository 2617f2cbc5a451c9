// The list of results. Only the rows in view exist.

const ROW = 92;
const SPARE = 6; // rows drawn beyond the edges
const list = { view: "conversations", numbers: [], pattern: null, selected: -1, drawn: new Map() };

/** Show these results; `selected` is the number that is open. */
function showList(view, numbers, pattern, selected) {
  Object.assign(list, { view, numbers, pattern, selected });
  for (const row of list.drawn.values()) row.remove();
  list.drawn.clear();
  find("rows").style.height = `${numbers.length * ROW}px`;
  find("nothing")?.remove();
  const nothing = "Nothing matches. Take back a word or a filter.";
  if (!numbers.length) find("list").append(make("p.nothing", { id: "nothing" }, nothing));
  drawRows();
}

function drawRows() {
  const pane = find("list"), first = Math.max(0, Math.floor(pane.scrollTop / ROW) - SPARE);
  const last = Math.min(list.numbers.length, Math.ceil((pane.scrollTop + pane.clientHeight) / ROW) + SPARE);
  for (const [place, row] of list.drawn) {
    if (place < first || place >= last) {
      row.remove();
      list.drawn.delete(place);
    }
  }
  for (let place = first; place < last; place++) {
    if (list.drawn.has(place)) continue;
    const row = list.view === "personas" ? personaRow(list.numbers[place]) : treeRow(list.numbers[place]);
    row.style.transform = `translateY(${place * ROW}px)`;
    row.id = `row-${place}`;
    row.dataset.number = list.numbers[place];
    row.setAttribute("aria-selected", list.numbers[place] === list.selected);
    row.setAttribute("aria-posinset", place + 1);
    row.setAttribute("aria-setsize", list.numbers.length);
    list.drawn.set(place, row);
    find("rows").append(row);
  }
}

/** Mark what is open, and bring it into view. */
function selectRow(number) {
  list.selected = number;
  const place = list.numbers.indexOf(number), pane = find("list");
  if (place >= 0 && pane.clientHeight) {
    const top = place * ROW;
    if (top < pane.scrollTop) pane.scrollTop = top;
    else if (top + ROW > pane.scrollTop + pane.clientHeight) pane.scrollTop = top + ROW - pane.clientHeight;
  }
  drawRows();
  for (const [at, row] of list.drawn) row.setAttribute("aria-selected", at === place);
  if (place >= 0) pane.setAttribute("aria-activedescendant", `row-${place}`);
}

function treeRow(number) {
  const tree = data.conversations[number];
  const column = columnOf(order.key);
  const value = column >= 0 ? written(data.measures[column], tree.measures[column]) : plural(tree.depth, "turn");
  const told = tree.turns.some((turn) => turn.h !== null);
  const ticks = tree.turns.slice(0, 20).map((turn) => make(turn.h === 0 ? "i.won" : turn.h === 1 ? "i.lost" : "i"));
  const title = "Turn by turn: green where the reply with the hint is preferred";
  const strip = told ? make("div.strip", { title }, ...ticks) : null;
  const texts = [...ofTurns(tree), ...data.personas[tree.persona].profile, ...data.personas[tree.persona].personality];
  const text = (list.pattern && snippet(texts, list.pattern)) || tree.turns[0].u;
  return make("div.row", { role: "option" },
    make("div.line", {}, make("span.id", {}, marked(tree.id, list.pattern)),
      tree.split && tree.split !== "train" ? make("span.tag", {}, tree.split) : null,
      tree.forked ? make("span.tag", {}, "forked") : null, make("span.value", {}, value)),
    make("p.text", {}, marked(text, list.pattern)), strip);
}

function personaRow(number) {
  const persona = data.personas[number];
  const text = (list.pattern && snippet(sentencesOf(persona), list.pattern)) || persona.profile.join("");
  return make("div.row", { role: "option" },
    make("div.line", {}, make("span.id", {}, marked(persona.id, list.pattern)),
      persona.split ? make("span.tag", {}, persona.split) : null,
      make("span.value", {}, plural(persona.talks.length, "conversation"))),
    make("p.text", {}, marked(text, list.pattern)));
}
