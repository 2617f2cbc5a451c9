// One conversation: a dialogue through the tree, both replies of every turn side by side.

const open = { number: -1, tree: null, answers: [], choices: new Map(), path: [], at: 0, pattern: null };

/** Open conversation `number` along its continued replies. */
function openTree(number, pattern) {
  const tree = data.conversations[number];
  Object.assign(open, { number, tree, answers: answersIn(tree), choices: new Map(), at: 0, pattern });
  drawDialogue(0);
  drawWho();
}

/** Mark what another search finds in what is open. */
function markAgain(pattern) {
  if (!open.tree || String(open.pattern) === String(pattern)) return;
  open.pattern = pattern;
  const kept = find("reader").scrollTop;
  drawDialogue(Infinity);
  steady(() => { find("reader").scrollTop = kept; });
  drawWho();
}

/** Show a branch of a turn, and what follows from it. */
function choose(turn, branch) {
  if (reply(open.tree.turns[turn], branch) === null || shownAt(turn) === branch) return;
  open.choices.set(turn, branch);
  const kept = find("reader").scrollTop;
  open.at = open.path.indexOf(turn);
  drawDialogue(open.at + 1);
  steady(() => { find("reader").scrollTop = kept; });
  drawWho();
}

/** Draw the path; turns from `fresh` on appear softly. */
function drawDialogue(fresh) {
  open.path = pathUnder(open.tree, open.answers, open.choices);
  const blocks = open.path.map((turn, at) => drawTurn(turn, at, at >= fresh));
  find("sheet").replaceChildren(drawFacts(open.tree), ...blocks, drawEnd());
  markHere();
}

function drawFacts(tree) {
  const fact = (value, label, help) => make("div", { title: help }, make("b", {}, value), make("span", {}, label));
  const facts = data.measures.map((it, column) => fact(written(it, tree.measures[column]), it.label, it.help));
  const forks = "This tree forks: click on a reply to see what follows it";
  if (tree.forked) facts.push(fact(tree.turns.length, "turns, all branches", forks));
  return make("div.facts", {}, ...facts);
}

const shownAt = (turn) => open.choices.get(turn) ?? open.tree.turns[turn].c;

function drawTurn(turn, at, fresh) {
  const it = open.tree.turns[turn], branches = it.r === null ? [0] : [0, 1];
  const replies = make(branches.length > 1 ? "div.replies" : "div.replies.one",
    { role: "radiogroup", "aria-label": `Replies of turn ${at + 1}` },
    ...branches.map((branch) => drawReply(turn, it, branch)));
  const block = make(fresh ? "section.turn.fresh" : "section.turn", { "aria-label": `Turn ${at + 1}` },
    make("div.number", {}, make("span", {}, at + 1)),
    make("div", {}, make("div.user", {}, marked(it.u, open.pattern)), drawLearned(turn, at), replies));
  if (at + 1 < open.path.length && branches.length > 1) {
    const from = shownAt(turn) ? 75 : 25;
    block.append(make("div.link", {}, drawing("0 0 100 24", `M${from} 0 C${from} 20 2.5 6 2.5 24`)));
  }
  return block;
}

function drawReply(turn, it, branch) {
  const shown = shownAt(turn) === branch, answered = open.answers[turn][branch] !== undefined;
  const select = () => {
    // A click that ends a selection of text is no choice.
    if (getSelection().isCollapsed) choose(turn, branch);
  };
  return make("article.reply", {
    role: "radio", "aria-checked": String(shown), tabindex: shown ? 0 : -1, "data-turn": turn, "data-branch": branch,
    title: shown ? null : "Show this branch",
    onclick: select,
    onkeydown: (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose(turn, branch);
    },
  },
    it.r === null ? null : make("header", {},
      branch ? make("span.verdict", {}, "Rejected") : make("span.verdict.preferred", {}, "Preferred"),
      it.h === branch ? make("span", { title: "Written with the inferred persona as a hidden hint" }, "with hint") : null,
      wentOn(it.c === branch, answered)),
    make("div.words", {}, marked(reply(it, branch), open.pattern)),
    drawLeaks(it.l.filter((leak) => leak[0] === branch)));
}

const LEAK = "The reply has at least 60% of the content words of this sentence, which the user had not revealed";

function drawLeaks(leaks) {
  if (!leaks.length) return null;
  const sentences = sentencesOf(data.personas[open.tree.persona]);
  const quoted = leaks.flatMap(([, number], n) => [n ? ", " : "", make("q", {}, sentences[number].trim())]);
  return make("p.leak", { title: LEAK }, "Not revealed yet: ", ...quoted);
}

function wentOn(continued, answered) {
  const mark = (kind, text, title) => make(kind, { title }, text);
  if (continued && answered) return mark("span.went", "continued ↓", "The dialogue went on from this reply");
  if (answered) return mark("span.went", "answered ↓", "The user answered this reply, too");
  return continued ? mark("span.went.idle", "drawn to continue", "The dialogue ended before it could be answered") : null;
}

/** The sentences that this turn's inferred persona has and the one before it on the path has not. */
function drawLearned(turn, at) {
  const sentences = sentencesOf(data.personas[open.tree.persona]), now = knownAt(open.tree.turns[turn]);
  const before = at ? knownAt(open.tree.turns[open.path[at - 1]]) : { sentences: new Set(), beyond: [] };
  const added = [...now.sentences].filter((number) => !before.sentences.has(number));
  const beyond = now.beyond.filter((text) => !before.beyond.includes(text));
  const total = now.sentences.size + now.beyond.length, first = firstKnown();
  if (!total) return null;
  const piece = (kind, text, title) => [make(kind, { title }, text), " "];
  // An inducer may pass over what it had stated before: when it comes back it is no news.
  const pieces = added.map((number) => (first.get(number) === at ? piece("span.new", sentences[number].trim())
    : piece("span.new.again", sentences[number].trim(), `Inferred before, at turn ${first.get(number) + 1}`)));
  pieces.push(...beyond.map((text) => piece("span.new.free", text, "In no sentence of the persona")));
  const news = beyond.length || added.some((number) => first.get(number) === at);
  const label = news ? "Newly inferred" : added.length ? "Inferred again" : "Nothing new inferred";
  const texts = [...[...now.sentences].map((number) => sentences[number].trim()), ...now.beyond];
  const all = make("ul", { hidden: "" }, ...texts.map((text) => make("li", {}, text)));
  const button = make("button", { "aria-expanded": "false", onclick: () => {
    all.hidden = !all.hidden;
    button.setAttribute("aria-expanded", String(!all.hidden));
  } }, `${total} in all`);
  return make("div.learned", {}, make("span.label", {}, label), ...pieces.flat(), button, all);
}

function drawEnd() {
  const last = open.path.at(-1), other = 1 - shownAt(last), went = open.answers[last][other] !== undefined;
  if (!went) return make("p.end", {}, "End of the dialogue.");
  const button = make("button", { onclick: () => choose(last, other) }, "Go on from the other reply");
  return make("p.end", {}, "Nobody answered this reply: the branch ends here.", button);
}

const blocks = () => [...find("sheet").querySelectorAll(".turn")];

/** Which turn of the path is being read, from where the pane is scrolled to. */
function follow() {
  if (!open.tree) return;
  const pane = find("reader").getBoundingClientRect(), line = pane.top + Math.min(260, pane.height * 0.4);
  const tops = blocks().map((block) => block.getBoundingClientRect().top);
  let at = Math.max(0, tops.filter((top) => top <= line).length - 1);
  if (find("reader").scrollTop === 0) at = 0;
  if (at !== open.at) {
    open.at = at;
    markHere();
    drawWho();
  }
}

function markHere() {
  blocks().forEach((block, at) => block.classList.toggle("here", at === open.at));
}

/** Go to place `at` of the path. */
function goTo(at) {
  const target = blocks()[at];
  if (!target) return;
  open.at = at;
  markHere();
  drawWho();
  steady(() => target.scrollIntoView({ block: "start" }));
}

// A scroll of our own must not be taken for the reader's.
let following = true;
function steady(scroll) {
  following = false;
  scroll();
  requestAnimationFrame(() => requestAnimationFrame(() => { following = true; }));
}
