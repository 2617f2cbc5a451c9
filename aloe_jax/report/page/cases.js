// The cases: parsed when they are opened, found by search, put in order by their ratings.

const sources = document.querySelectorAll("script.case");
const parsed = new Map();

/** One case with all its texts. */
function opened(number) {
  if (!parsed.has(number)) parsed.set(number, JSON.parse(sources[number].textContent));
  return parsed.get(number);
}

let texts = null;
/** All words of every case in lower case; read at the first search. */
function searchable() {
  texts ??= data.cases.map((about, number) => {
    const { columns } = opened(number);
    const said = Object.values(columns).flatMap((column) => column.turns.flatMap((turn) => [turn.user, turn.reply]));
    const { profile, personality } = opened(number);
    return [about.id, ...profile, ...personality, ...said].join("\n").toLowerCase();
  });
  return texts;
}

const spread = (means) => {
  const given = means.filter((mean, entry) => mean !== null && !data.entries[entry].reference);
  return given.length > 1 ? Math.max(...given) - Math.min(...given) : -1;
};

/** Ways to order the cases: name, and what a case is sorted by, ascending. */
const orders = [
  ["as in the run", () => 0],
  ...(data.entries.filter((entry) => !entry.reference).length > 1
    ? [["models differ most", (about) => -spread(about.means)]] : []),
  ...data.entries.flatMap((entry, number) => [
    [`lowest for ${entry.label}`, (about) => about.means[number] ?? 9],
    [`highest for ${entry.label}`, (about) => -(about.means[number] ?? -9)],
  ]),
];

/** The numbers of the cases that match, in order. */
function matching(words, order, only) {
  const wanted = words.trim().toLowerCase(), by = orders[order][1];
  const numbers = data.cases.map((_, number) => number)
    .filter((number) => (!only || only.has(data.cases[number].id)) && (!wanted || searchable()[number].includes(wanted)));
  return numbers.sort((a, b) => by(data.cases[a]) - by(data.cases[b]) || a - b);
}

/** The lists of the lowest and the highest cases of one model. */
function rank(entry, open) {
  const known = data.cases.map((_, number) => number).filter((number) => data.cases[number].means[entry] !== null);
  known.sort((a, b) => data.cases[a].means[entry] - data.cases[b].means[entry] || a - b);
  const shown = Math.min(5, Math.ceil(known.length / 2));
  const list = (numbers) => numbers.map((number) => make("li", {}, make("button", { type: "button", onclick: () => open(number, entry) },
    make("span.mean", {}, fixed(data.cases[number].means[entry])), make("span.id", {}, data.cases[number].id),
    make("span.about", {}, data.cases[number].about))));
  find("worst").replaceChildren(...list(known.slice(0, shown)));
  find("best").replaceChildren(...list(known.slice(known.length - shown).reverse()));
}
