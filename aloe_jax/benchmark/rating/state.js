// What was answered, kept in this browser after every change where the browser allows it.

const data = JSON.parse(find("data").textContent);
const SLOT = `aloe-rating-page-${data.page}`;
const IDLE = 60_000; // of a longer pause between two signs of life only so many milliseconds count
const number = new Map(data.items.map((one, place) => [one.item, place]));

// answers: item -> {rating, note, seconds}. rating is 1 to 5, null where it was passed over, absent where it is open.
// unsaved: answers since the last file that was written.
const blank = () => ({ rater: "", at: 0, answers: {}, follow: true, theme: "", unsaved: 0 });
let state = blank();
let kept = true; // in this browser
let past = []; // to be undone: [item, its answer before]

const answerTo = (item) => state.answers[item] ?? { note: "", seconds: 0 };
const isOpen = (answer) => answer.rating === undefined;
const isRating = (value) => value === null || (Number.isInteger(value) && value >= 1 && value <= 5);
const current = () => data.items[state.at].item;
const done = () => data.items.filter((one) => !isOpen(answerTo(one.item))).length;

function keep() {
  try {
    localStorage.setItem(SLOT, JSON.stringify(state));
    kept = true;
  } catch {
    kept = false;
  }
}

/** What this browser kept of this page, if it kept anything that can be read. */
function recall() {
  let found = null;
  try {
    found = JSON.parse(localStorage.getItem(SLOT));
  } catch {
    // Forbidden, or not ours: a fresh start.
  }
  state = blank();
  if (typeof found !== "object" || found === null) return;
  for (const [name, value] of Object.entries(state)) {
    if (typeof found[name] === typeof value) state[name] = found[name];
  }
  state.at = Math.max(0, Math.min(data.items.length - 1, Math.floor(state.at) || 0));
  state.answers = {};
  for (const [item, answer] of Object.entries(found.answers ?? {})) {
    if (number.has(item)) state.answers[item] = sound(answer);
  }
}

/** An answer from outside with nothing in it but what belongs there. */
function sound(found) {
  const answer = { note: typeof found?.note === "string" ? found.note : "", seconds: Number(found?.seconds) || 0 };
  if (isRating(found?.rating)) answer.rating = found.rating;
  return answer;
}

/** Change the answer to an item. */
function put(item, change) {
  past.push([item, state.answers[item]]);
  state.answers[item] = { ...answerTo(item), ...change };
  state.unsaved += 1;
  keep();
}

/** Take back the last change; returns its item, or null where there is none. Time that was spent stays spent. */
function undo() {
  if (!past.length) return null;
  const [item, before] = past.pop();
  const { seconds } = answerTo(item);
  state.answers[item] = { note: "", ...before, seconds };
  state.unsaved += 1;
  keep();
  return item;
}

/** The next item after the present one that is open, from the beginning again after the last; null if there is none. */
function nextOpen() {
  const count = data.items.length;
  for (let step = 1; step <= count; step += 1) {
    const place = (state.at + step) % count;
    if (isOpen(answerTo(data.items[place].item))) return place;
  }
  return null;
}

// ---------------------------------------------------------------- time

let seen = null; // when there was last a sign of life, while an item is being read

/** Count the time since the last sign of life to the item that is shown. */
function tick() {
  const now = performance.now();
  if (seen !== null) {
    const item = current(), answer = answerTo(item);
    state.answers[item] = { ...answer, seconds: answer.seconds + Math.min(now - seen, IDLE) / 1000 };
  }
  seen = document.hidden || document.querySelector("dialog[open]") ? null : now;
}
