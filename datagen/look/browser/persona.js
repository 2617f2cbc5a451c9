// The person: beside a dialogue, with what is known of them at the turn being read; and on a page of their own.

let filterBy = () => {}; // (name, id): set by the page

function idButtons(persona) {
  const part = (name, id) => make("button", { title: `Only this ${name}`, onclick: () => filterBy(name, id) }, id);
  const traits = personalityId(persona);
  return traits ? [part("profile", profileId(persona)), make("span", {}, "with"), part("personality", traits)]
    : [make("span.id", {}, persona.id)];
}

/** Sentence numbers to the place on the path where they were first known. */
function firstKnown() {
  const first = new Map();
  open.path.forEach((turn, at) => {
    for (const number of knownAt(open.tree.turns[turn]).sentences) if (!first.has(number)) first.set(number, at);
  });
  return first;
}

const LEGEND = [["span.new", "new at this turn"], ["span", "known before"], ["span.gone", "inferred before, not now"],
  ["span.not", "not inferred yet"]];

/** The panel beside the dialogue, for the turn open.at of the path. */
function drawWho() {
  const persona = data.personas[open.tree.persona], turn = open.tree.turns[open.path[open.at]];
  const now = knownAt(turn), first = firstKnown(), count = sentencesOf(persona).length;
  const span = (text, number) => {
    const at = first.get(number), known = now.sentences.has(number);
    const kind = known ? (at < open.at ? "known" : "new") : at < open.at ? "earlier" : "";
    return make(kind ? `span.trait.${kind}` : "span.trait", {
      "data-turn": at === undefined ? null : at,
      title: at === undefined ? null : `First inferred at turn ${at + 1}`,
      onclick: at === undefined ? () => {} : () => goTo(at),
    }, marked(text.trimEnd(), open.pattern));
  };
  const spaceAfter = (text) => text.slice(text.trimEnd().length) || " ";
  const flow = (sentences, offset) =>
    make("p", {}, ...sentences.flatMap((text, n) => [span(text, offset + n), spaceAfter(text)]));
  const bar = make("i");
  bar.style.width = `${(100 * now.sentences.size) / Math.max(1, count)}%`;
  const folded = find("who").classList.contains("folded");
  const fold = make("button.fold", { "aria-expanded": String(!folded), onclick: () => {
    find("who").classList.toggle("folded");
    drawWho();
  } }, folded ? "Show persona" : "Hide");
  find("who").replaceChildren(
    make("div.title", {}, ...idButtons(persona), persona.split ? make("span.tag", {}, persona.split) : null, fold),
    make("div.progress", {}, `Inferred at turn ${open.at + 1}: ${now.sentences.size} of ${plural(count, "sentence")}`,
      make("div", {}, bar)),
    make("div.columns", {},
      make("div", {}, make("h2", {}, "Profile"), flow(persona.profile, 0)),
      make("div", {}, make("h2", {}, "Personality"), flow(persona.personality, persona.profile.length))),
    ...(now.beyond.length ? [make("h2", {}, "Inferred, but in no sentence above"),
      make("ul.beyond", {}, ...now.beyond.map((text) => make("li", {}, text)))] : []),
    make("div.legend", {}, ...LEGEND.map(([kind, text]) => make(kind, {}, make("i"), text))));
}

/** The page of persona `number`; `visit` opens a conversation. */
function drawPerson(number, pattern, visit) {
  const persona = data.personas[number];
  const talks = persona.talks.map((n) => {
    const tree = data.conversations[n];
    const open = make("button", { onclick: () => visit(n) }, make("span.id", {}, tree.id), tree.turns[0].u);
    return make("li", {}, open);
  });
  find("sheet").replaceChildren(make("article.person", {},
    make("div.title", {}, ...idButtons(persona), persona.split ? make("span.tag", {}, persona.split) : null),
    make("h2", {}, "Profile"), make("p", {}, marked(persona.profile.join(""), pattern)),
    make("h2", {}, "Personality"), make("p", {}, marked(persona.personality.join(""), pattern)),
    make("h2", {}, talks.length ? plural(talks.length, "conversation") : "No conversation"),
    make("ul.talks", {}, ...talks)));
}
