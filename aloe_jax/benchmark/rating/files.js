// The file of ratings: written at any time, read again to go on elsewhere.

const FORMAT = "aloe-human-ratings", VERSION = 1;

/** Everything that was said, in the order of the page. */
function record() {
  const ratings = [];
  for (const { item } of data.items) {
    const answer = answerTo(item);
    if (isOpen(answer) && !answer.note) continue;
    const one = { item, rating: answer.rating ?? null, note: answer.note, seconds: Math.round(answer.seconds * 10) / 10 };
    if (isOpen(answer)) one.undecided = true;
    ratings.push(one);
  }
  return { format: FORMAT, version: VERSION, rater: state.rater, page: data.page, ratings };
}

function fileName() {
  const name = state.rater.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return `ratings-${name || "rater"}.json`;
}

function download() {
  const blob = new Blob([`${JSON.stringify(record(), null, 1)}\n`], { type: "application/json" });
  const link = make("a", { href: URL.createObjectURL(blob), download: fileName() });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  state.unsaved = 0;
  keep();
}

/** What is wrong with a file that was opened, or "". */
function fault(found) {
  if (found?.format !== FORMAT || !Array.isArray(found.ratings)) return "it holds no ratings of such a page";
  if (found.version !== VERSION) return `it is of version ${found.version}, this page reads version ${VERSION}`;
  if (found.page !== data.page) return "it belongs to another page";
  if (typeof found.rater !== "string" || !found.rater) return "it does not say who rated";
  if (state.rater && found.rater !== state.rater) return `it is ${found.rater}'s, and here ${state.rater} is rating`;
  return "";
}

/** Take over what a file says and is still open here. Returns a sentence that says what became of it. */
function takeOver(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    return "Nothing was taken over: the file is no JSON.";
  }
  const wrong = fault(found);
  if (wrong) return `Nothing was taken over: ${wrong}.`;
  let taken = 0, other = 0;
  for (const one of found.ratings) {
    if (!number.has(one?.item) || !isRating(one.rating)) continue;
    const here = answerTo(one.item), there = sound(one);
    if (one.undecided) delete there.rating;
    if (!isOpen(here)) {
      if (!isOpen(there) && there.rating !== here.rating) other += 1;
      continue;
    }
    if (!isOpen(there)) taken += 1;
    state.answers[one.item] = {
      ...there, note: here.note || there.note, seconds: Math.max(here.seconds, there.seconds),
    };
  }
  state.rater = found.rater;
  past = [];
  const next = nextOpen();
  if (next !== null && !isOpen(answerTo(current()))) state.at = next;
  keep();
  const differ = other ? ` ${plural(other, "rating")} given here stayed as ${other === 1 ? "it is" : "they are"}.` : "";
  return `${plural(taken, "rating")} taken over.${differ}`;
}
