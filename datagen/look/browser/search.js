// Full-text search. A text is lower-cased once; a longer query looks only at what the shorter one found.

const haystacks = { conversations: [], personas: [] };

const ofPersona = (persona) => `${persona.id}\n${persona.profile.join("")}\n${persona.personality.join("")}`;
const ofTurns = (tree) => tree.turns.flatMap((turn) => [turn.u, turn.p, turn.r ?? ""]);
const ofTree = (tree) => [tree.id, ofPersona(data.personas[tree.persona]), ...ofTurns(tree)].join("\n");

function haystack(view, number) {
  const texts = haystacks[view];
  if (texts[number] === undefined) {
    const item = data[view][number];
    texts[number] = (view === "personas" ? ofPersona(item) : ofTree(item)).toLowerCase();
  }
  return texts[number];
}

/** Prepare the texts while nobody is typing, a few milliseconds at a time. */
function prepareSearch(view = "conversations", from = 0) {
  const until = performance.now() + 8;
  let number = from;
  while (number < data[view].length && performance.now() < until) haystack(view, number++);
  if (number < data[view].length) setTimeout(prepareSearch, 4, view, number);
  else if (view === "conversations") setTimeout(prepareSearch, 4, "personas", 0);
  else document.documentElement.dataset.prepared = "yes";
}

/** The words and "quoted phrases" of a query, in lower case. */
const termsOf = (query) => [...query.toLowerCase().matchAll(/"([^"]+)"?|[^\s"]+/g)].map((hit) => hit[1] ?? hit[0]);

let asked = { view: "", query: "", found: null };

/** The numbers of what contains every term, null for all. */
function searched(view, query) {
  const terms = termsOf(query);
  if (!terms.length) {
    asked = { view, query: "", found: null };
    return null;
  }
  const narrower = asked.found && asked.view === view && query.startsWith(asked.query) && !query.includes('"');
  const found = new Set();
  for (const number of narrower ? asked.found : data[view].keys()) {
    const text = haystack(view, number);
    if (terms.every((term) => text.includes(term))) found.add(number);
  }
  asked = { view, query, found };
  return found;
}

/** What to mark for a query, null for nothing. */
function patternOf(query) {
  const terms = termsOf(query).map((term) => term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  return terms.length ? new RegExp(terms.sort((a, b) => b.length - a.length).join("|"), "gi") : null;
}

/** A piece of the text with most of the words searched for, starting shortly before a hit; null when none has any. */
function snippet(texts, pattern) {
  let best = null, most = 0;
  for (const text of texts) {
    const hits = new Set((text.match(pattern) ?? []).map((hit) => hit.toLowerCase())).size;
    if (hits > most) [best, most] = [text, hits];
  }
  if (best === null) return null;
  const at = best.search(pattern), start = at < 50 ? 0 : best.indexOf(" ", at - 40) + 1 || at;
  return (start ? "… " : "") + best.slice(Math.min(start, at), at + 160);
}
