// The data: unpacked once, then read only.
//
// data.conversations[n]: id, persona (index), split, depth (turns on the longest path), forked, measures, turns of
//   u: user, p: preferred, r: rejected or null, c: branch continued, h: branch written with the hint or null,
//   f, a: turn and branch it answers where that is not the continued one of the turn before,
//   i: inferred sentences, each a number (that sentence of the persona, verbatim) or [text, number or -1],
//   l: leaks, [branch, sentence]. A branch is 0 (preferred) or 1 (rejected).
// data.personas[n]: id, split, profile and personality (lists of sentences; numbers above count through both).

let data;

async function unpack() {
  const packed = find("data").textContent;
  find("data").remove();
  if (typeof DecompressionStream === "undefined") throw new Error("this browser cannot; use one from 2023 or later");
  const binary = atob(packed), bytes = new Uint8Array(binary.length);
  for (let n = 0; n < binary.length; n++) bytes[n] = binary.charCodeAt(n);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  data = await new Response(stream).json();
  for (const persona of data.personas) persona.talks = [];
  data.conversations.forEach((tree, n) => data.personas[tree.persona].talks.push(n));
}

const profileId = (persona) => persona.id.split("-", 1)[0];
const personalityId = (persona) => (persona.id.includes("-") ? persona.id.slice(persona.id.indexOf("-") + 1) : "");
const sentencesOf = (persona) => persona.profile.concat(persona.personality);
const reply = (turn, branch) => (branch ? turn.r : turn.p);

/** The [turn, branch] that turn `number` answers, null for the first. */
function placeOf(tree, number) {
  const turn = tree.turns[number];
  if (turn.f !== undefined) return [turn.f, turn.a];
  return number ? [number - 1, tree.turns[number - 1].c] : null;
}

/** answers[turn][branch]: the turn that goes on from there, or undefined. */
function answersIn(tree) {
  const answers = tree.turns.map(() => []);
  tree.turns.forEach((_, number) => {
    const place = placeOf(tree, number);
    if (place) answers[place[0]][place[1]] = number;
  });
  return answers;
}

/** The dialogue under `choices` (turn -> branch, default the continued one): its turns in order. */
function pathUnder(tree, answers, choices) {
  const path = [];
  for (let turn = 0; turn !== undefined; ) {
    path.push(turn);
    turn = answers[turn][choices.get(turn) ?? tree.turns[turn].c];
  }
  return path;
}

/** What is known of the persona at a turn: sentence numbers, and inferred texts that match no sentence. */
function knownAt(turn) {
  const known = { sentences: new Set(), beyond: [] };
  for (const item of turn.i) {
    const number = typeof item === "number" ? item : item[1];
    if (number >= 0) known.sentences.add(number);
    else known.beyond.push(item[0]);
  }
  return known;
}
