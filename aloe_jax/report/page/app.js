// Controls and keys.

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const text = find(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text); // where a page may not write to the clipboard
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}

const links = new Map([...document.querySelectorAll(".top a:not(.home)")].map((link) => [link.hash.slice(1), link]));
const watcher = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (!isIntersecting) continue;
    for (const link of links.values()) link.removeAttribute("aria-current");
    links.get(target.id)?.setAttribute("aria-current", "true");
  }
}, { rootMargin: "-15% 0px -75% 0px" });
for (const section of document.querySelectorAll("main > section")) watcher.observe(section);

if (data.cases.length) {
  let only = null, matches = [];

  const list = () => {
    matches = matching(state.words, Number(find("order").value), only);
    find("case").replaceChildren(...matches.map((number) => {
      const about = data.cases[number];
      return make("option", { value: number }, `${about.id}: ${about.about}`);
    }));
    if (!matches.length) find("case").append(make("option", { value: "" }, "No case matches"));
    const all = data.cases.length;
    find("count").textContent = matches.length < all ? `${matches.length} of ${all} cases` : `${all} cases`;
    if (only) {
      find("count").append(" ", make("button.small", { type: "button", onclick: () => { only = null; list(); } }, "Show all"));
    }
    if (matches.length) showCase(matches.includes(state.number) ? state.number : matches[0]);
  };

  const step = (by) => {
    if (!matches.length) return;
    const place = Math.max(0, matches.indexOf(state.number));
    showCase(matches[(place + by + matches.length) % matches.length]);
  };

  const toTranscripts = () => find("transcripts").scrollIntoView();

  const chips = new Map();
  const show = (entry, on) => {
    if (on) state.shown.add(entry); else state.shown.delete(entry);
    chips.get(entry)?.setAttribute("aria-pressed", on);
  };
  data.entries.forEach((entry, number) => {
    const chip = make(`button.toggle.${entry.style}`, { type: "button", "data-column": number, "aria-pressed": "false", onclick: () => {
      show(number, !state.shown.has(number));
      showCase(state.number);
    } }, swatch(number), entry.label);
    chips.set(number, chip);
    find("columns").append(chip);
  });
  find("columns").append(make("button.toggle", { type: "button", id: "reasons", "aria-pressed": "false", onclick: (event) => {
    state.reasons = !state.reasons;
    event.currentTarget.setAttribute("aria-pressed", state.reasons);
    find("dialogues").dataset.reasons = state.reasons ? "on" : "off";
  } }, "Judges’ reasons"));
  const tested = data.entries.map((_, number) => number).filter((number) => !data.entries[number].reference);
  // As many as fit: the last ones, since runs name their models from weak to strong; one alone is the best.
  const some = tested.length ? tested : data.entries.map((_, number) => number);
  const first = shownAtFirst === 1 ? [Number(find("ranked").value)] : some.slice(-shownAtFirst);
  for (const number of first) show(number, true);

  find("order").append(...orders.map(([name], number) => make("option", { value: number }, name)));
  find("order").addEventListener("change", () => { state.number = -1; list(); });
  find("search").addEventListener("input", (event) => { state.words = event.target.value; list(); });
  find("case").addEventListener("change", (event) => { if (event.target.value !== "") showCase(Number(event.target.value)); });
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("turn").addEventListener("input", (event) => toTurn(Number(event.target.value)));
  for (const button of document.querySelectorAll("[data-cases]")) {
    button.addEventListener("click", () => {
      only = new Set(button.dataset.cases.split(" "));
      state.number = -1;
      list();
      toTranscripts();
    });
  }

  const open = (number, entry) => {
    only = null;
    state.words = find("search").value = "";
    show(entry, true);
    list();
    showCase(number);
    toTranscripts();
    find("case").focus({ preventScroll: true });
  };
  find("ranked").addEventListener("change", (event) => rank(Number(event.target.value), open));
  rank(Number(find("ranked").value), open);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target === find("search")) find("search").blur();
    if (event.target.closest("input, select, textarea, pre")) return;
    const act = {
      ArrowLeft: () => step(-1), ArrowRight: () => step(1), j: () => toTurn(state.turn + 1), k: () => toTurn(state.turn - 1),
      "/": () => { toTranscripts(); find("search").focus({ preventScroll: true }); },
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  list();
}
document.documentElement.dataset.ready = "true";
