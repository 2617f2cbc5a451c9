// One case: the person with what has been revealed by a turn, and the dialogues of the chosen models side by side.

const shownAtFirst = window.innerWidth < 700 ? 1 : 3;
const state = { number: 0, turn: 1, shown: new Set(), reasons: false, words: "" };

/** The text with what was searched for in <mark>. */
function marked(text) {
  const wanted = state.words.trim().toLowerCase(), part = document.createDocumentFragment();
  let from = 0;
  if (wanted && text.toLowerCase().length === text.length) {
    const low = text.toLowerCase();
    for (let at = low.indexOf(wanted); at >= 0; at = low.indexOf(wanted, from)) {
      part.append(text.slice(from, at), make("mark", {}, text.slice(at, at + wanted.length)));
      from = at + wanted.length;
    }
  }
  part.append(text.slice(from));
  return part;
}

const columnsOf = (entry) => [...state.shown].sort((a, b) => a - b).filter((number) => entry.columns[number]);

/** By sentence of the person: at which turn each shown model's user revealed it. */
function revelations(entry) {
  const found = new Map();
  for (const number of columnsOf(entry)) {
    entry.columns[number].turns.forEach((turn, at) => {
      for (const fact of turn.new ?? []) {
        if (!found.has(fact)) found.set(fact, new Map());
        if (!found.get(fact).has(number)) found.get(fact).set(number, at + 1);
      }
    });
  }
  return found;
}

function showPerson() {
  const entry = opened(state.number), found = revelations(entry);
  const item = (text, fact) => {
    const turns = [...(found.get(fact) ?? [])];
    const known = turns.some(([, turn]) => turn <= state.turn), now = turns.some(([, turn]) => turn === state.turn);
    const alike = turns.length === columnsOf(entry).length && turns.every(([, turn]) => turn === turns[0][1]);
    const by = (alike ? turns.slice(0, 1) : turns).map(([number, turn]) => make(
      `span.by.${alike ? "all" : data.entries[number].style}${turn > state.turn ? ".later" : ""}`, {},
      `${alike ? "" : `${data.entries[number].label} `}turn ${turn}`));
    return make("li", {}, make(`span.fact${now ? ".known.new" : known ? ".known" : ""}`, {}, marked(text)), ...by);
  };
  find("profile").replaceChildren(...entry.profile.map((text, at) => item(text, at)));
  find("personality").replaceChildren(...entry.personality.map((text, at) => item(text, entry.profile.length + at)));
  find("turn-shown").textContent = state.turn;
  find("person").textContent = data.cases[state.number].id;
}

/** A fact by its number, or by its own text. */
const textOf = (entry, fact) => (typeof fact === "string" ? fact : [...entry.profile, ...entry.personality][fact]);

function cell(entry, number, turn, at) {
  if (!turn) {
    const why = at === entry.columns[number].turns.length ? entry.columns[number].stopped : null;
    return make("div.cell.empty", {}, why ? `The dialogue stopped: ${why}` : "");
  }
  const { scripted, judges } = data.entries[number];
  const whose = scripted.length > (scripted.includes("user") ? 1 : 0) ? "scripted judge" : "judge";
  const level = turn.rating === null ? "" : `.r${Math.round(turn.rating)}`;
  const says = turn.rating === null ? "No rating" : `Rated ${rated(turn.rating)} of 5 by the ${whose}`;
  const box = make(`div.rating${level}`, { role: "img", "aria-label": says, title: says }, rated(turn.rating));
  const line = (kind, name, facts) => (facts?.length
    ? make(`div.beside${kind}`, {}, make("b", {}, `${name}: `), facts.map((fact) => textOf(entry, fact)).join(" ")) : null);
  const names = turn.judges ?? judges;
  const votes = (turn.votes ?? []).map(([judge, rating, reason]) => make("li", {},
    `${names[judge] ?? "judge"}${rating === null ? "" : ` ${rating}`}: `, marked(reason)));
  const split = new Set((turn.votes ?? []).map(([, rating]) => rating)).size > 1;
  const people = Object.entries(turn.people ?? {});
  return make("div.cell", { "data-turn": at + 1 },
    make("div.from", {}, scripted.includes("user") ? "User, simulated" : "User"),
    make("div.user", {}, marked(turn.user)),
    turn.new?.length ? make("div.learned", {}, ...turn.new.map((fact) => make("span.fact.new", {}, textOf(entry, fact)))) : null,
    make("div.reply", {}, box, turn.reply ? make("div.text", {}, marked(turn.reply)) : make("div.text.empty", {}, "(empty reply)")),
    turn.ended ? make("div.beside.leak", {}, make("b", {}, turn.ended === "shortened" ? "Shortened to three sentences" : "Cut: no end of turn")) : null,
    split ? make("div.beside", {}, make("b", {}, "Votes: "), turn.votes.map(([, rating]) => rating ?? "–").join(", ")) : null,
    people.length ? make("div.beside", {}, make("b", {}, "People: "), people.map(([name, rating]) => `${name} ${rating}`).join(", ")) : null,
    line("", "Mentions", turn.used), line(".leak", "Not revealed yet", turn.leaked), line(".leak", "Untrue", turn.untrue),
    votes.length ? make("ul.reasons", {}, ...votes) : null);
}

function showDialogues() {
  const entry = opened(state.number), columns = columnsOf(entry), grid = find("dialogues");
  grid.style.setProperty("--n", Math.max(1, columns.length));
  const nodes = [make("div")];
  for (const number of columns) {
    const mean = data.cases[state.number].means[number];
    nodes.push(make(`div.head.${data.entries[number].style}`, {}, data.entries[number].label, " ",
      make("span.interval", {}, mean === null ? "no rating" : `mean ${fixed(mean)}`)));
  }
  if (!columns.length) nodes.push(make("p.empty", {}, "No dialogue with this person is shown: switch a model on above."));
  const length = Math.max(0, ...columns.map((number) => entry.columns[number].turns.length + (entry.columns[number].stopped ? 1 : 0)));
  for (let at = 0; at < length; at++) {
    nodes.push(make("div.at", {}, make("button", { type: "button", "data-at": at + 1, "aria-label": `What was revealed by turn ${at + 1}`, onclick: () => toTurn(at + 1) }, at + 1)));
    for (const number of columns) nodes.push(cell(entry, number, entry.columns[number].turns[at], at));
  }
  grid.replaceChildren(...nodes);
  find("turn").max = Math.max(1, length);
}

function showMoment() {
  find("turn").value = state.turn;
  for (const node of document.querySelectorAll("#dialogues [data-turn]")) node.classList.toggle("after", Number(node.dataset.turn) > state.turn);
  for (const node of document.querySelectorAll("#dialogues [data-at]")) node.setAttribute("aria-pressed", Number(node.dataset.at) === state.turn);
  showPerson();
}

const longest = () => Math.max(1, ...columnsOf(opened(state.number)).map((number) => opened(state.number).columns[number].turns.length));

function toTurn(turn) {
  state.turn = Math.max(1, Math.min(longest(), turn));
  showMoment();
}

function showCase(number) {
  state.number = number;
  state.turn = longest();
  showDialogues();
  showMoment();
  find("case").value = String(number);
}
