// What happens on a key or a click.

function go(place, told = "") {
  tick();
  state.at = Math.max(0, Math.min(data.items.length - 1, place));
  keep();
  drawItem();
  say(told, whereabouts());
}

/** Answer with a rating, null to pass over; then on to what is open, if that is wanted. */
function answer(rating) {
  if (!state.rater) return askName();
  tick();
  put(current(), { rating });
  const told = rating === null ? `Reply ${state.at + 1} passed over.` : `Reply ${state.at + 1}: ${rating}.`;
  const next = state.follow ? nextOpen() : null;
  if (next !== null) return go(next, told);
  drawAnswer();
  say(done() < data.items.length ? told : `${told} All are rated: download the file.`);
}

function takeBack() {
  tick();
  const item = undo();
  if (item === null) return say("There is nothing to take back.");
  go(number.get(item), "Taken back.");
}

function toOpen() {
  const place = nextOpen();
  if (place === null) say("All are rated.");
  else go(place);
}

function takeNote(show = find("noting").hidden || document.activeElement !== find("note")) {
  find("noting").hidden = !show && !find("note").value;
  drawAnswer();
  if (show) find("note").focus();
  else find("talk").focus({ preventScroll: true });
}

function save() {
  if (!state.rater) return askName();
  tick();
  download();
  drawAnswer();
  say(`${fileName()} was written, with ${plural(done(), "rating")}.`);
}

async function openFile(file) {
  if (!file) return;
  const told = takeOver(await file.text());
  find("file").value = "";
  find("told").textContent = told;
  if (state.rater) find("name").value = state.rater;
  go(state.at, told);
}

function changeTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  state.theme = { "": dark ? "light" : "dark" }[state.theme] ?? "";
  keep();
  drawAnswer();
}

// ---------------------------------------------------------------- who rates

/** Show a dialog; the time that it is open is no time of reading. */
function open(dialog) {
  tick();
  if (!dialog.open) dialog.showModal();
  seen = null;
}

function askName() {
  find("name").value = state.rater;
  find("told").textContent = "";
  find("over").hidden = !state.rater;
  find("over").textContent = "Start over";
  open(find("welcome"));
  find("name").focus();
}

function begin(event) {
  const name = find("name").value.trim();
  if (!name) {
    event.preventDefault();
    find("told").textContent = "Your name tells your file from the others'.";
    return;
  }
  if (name !== state.rater && done()) state.unsaved += 1;
  state.rater = name;
  keep();
}

function startOver() {
  if (find("over").textContent === "Start over") {
    find("over").textContent = `Delete ${plural(done(), "rating")} of ${state.rater}?`;
    return;
  }
  state = { ...blank(), theme: state.theme, follow: state.follow };
  past = [];
  seen = null;
  keep();
  drawItem();
  askName();
}

// ---------------------------------------------------------------- keys

const KEYS = {
  ArrowLeft: () => go(state.at - 1),
  ArrowRight: () => go(state.at + 1),
  ArrowUp: () => scroller().scrollBy(0, -90),
  ArrowDown: () => scroller().scrollBy(0, 90),
  u: takeBack,
  n: () => takeNote(true),
  j: toOpen,
  d: save,
  t: changeTheme,
  "?": () => open(find("help")),
};

function pressed(event) {
  tick();
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target === find("note")) {
    if (event.key === "Escape") takeNote(false);
    return;
  }
  const rating = /^[0-5]$/.test(event.key) ? Number(event.key) : null;
  const action = rating === null ? KEYS[event.key] : () => answer(rating || null);
  if (!action) return;
  event.preventDefault();
  if (!event.repeat || event.key.startsWith("Arrow")) action(); // a key held down is one answer
}

function listen() {
  const clicks = {
    back: KEYS.ArrowLeft, on: KEYS.ArrowRight, undo: takeBack, open: toOpen, pass: () => answer(null), download: save,
    "download-all": save, theme: changeTheme, "note-button": () => takeNote(), "help-button": KEYS["?"],
    "name-button": askName, over: startOver, "open-file": () => find("file").click(),
  };
  for (const [id, action] of Object.entries(clicks)) find(id).addEventListener("click", action);
  find("ratings").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) answer(Number(button.dataset.rating));
  });
  find("follow").addEventListener("change", () => { state.follow = find("follow").checked; keep(); });
  find("fold").addEventListener("click", () => {
    find("fold").setAttribute("aria-expanded", String(find("fold").getAttribute("aria-expanded") !== "true"));
  });
  find("file").addEventListener("change", () => openFile(find("file").files[0]));
  find("begin").addEventListener("submit", begin);
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("close", () => { // told late at times: a note may have been begun
      tick();
      drawAnswer();
      if (document.activeElement !== find("note")) find("talk").focus({ preventScroll: true });
    });
  }
  // A note is one change however long it is typed at, so that one undo takes it away.
  find("note").addEventListener("focus", () => { past.push([current(), state.answers[current()]]); });
  find("note").addEventListener("blur", () => {
    const [item, before] = past.at(-1) ?? [];
    if (item !== undefined && (before?.note ?? "") === answerTo(item).note) past.pop();
    drawAnswer();
  });
  find("note").addEventListener("input", () => {
    state.answers[current()] = { ...answerTo(current()), note: find("note").value };
    state.unsaved += 1;
    keep();
  });
  document.addEventListener("keydown", pressed);
  new ResizeObserver(holdReply).observe(find("talk").parentElement);
  for (const name of ["pointermove", "pointerdown", "wheel"]) addEventListener(name, tick, { passive: true });
  document.addEventListener("visibilitychange", () => { tick(); keep(); });
  addEventListener("pagehide", () => { tick(); keep(); });
  addEventListener("beforeunload", (event) => { if (!kept && state.unsaved) event.preventDefault(); });
  addEventListener("storage", (event) => { // the same page in another tab
    if (event.key !== SLOT) return;
    seen = null;
    past = [];
    const { at } = state;
    recall();
    state.at = at;
    drawItem();
  });
}

recall();
keep();
drawOnce();
listen();
drawItem();
if (state.rater) tick();
else askName();
document.documentElement.dataset.ready = "";
