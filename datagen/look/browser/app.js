// The page as a whole: what is open, the address, the keys.

const VIEWS = ["conversations", "personas"];
const page = { view: "conversations", selected: { conversations: -1, personas: -1 }, results: [] };

/** Search and filter, and show the list again. Whatever is open stays open. */
function refresh() {
  const query = find("search").value, found = searched(page.view, query), passed = passes(page.view);
  page.results = ordered(page.view).filter((number) => (!found || found.has(number)) && passed(number));
  const one = page.view === "personas" ? "persona" : "conversation", total = data[page.view].length;
  find("count").textContent = page.results.length === total ? plural(total, one)
    : `${page.results.length.toLocaleString("en")} of ${plural(total, one)}`;
  find("list").scrollTop = 0;
  showList(page.view, page.results, patternOf(query), page.selected[page.view]);
  const chip = ([shown, remove]) => make("button", {
    title: "Take this filter away",
    onclick: () => {
      remove();
      drawFilters(page.view, refresh);
      refresh();
    },
  }, shown);
  find("chips").replaceChildren(...inForce(page.view).map(chip));
  find("place").textContent = placeText();
  clearTimeout(marking);
  marking = setTimeout(markAgain, 150, patternOf(query));
}
let marking;

function placeText() {
  const place = page.results.indexOf(page.selected[page.view]);
  return place < 0 ? "" : `${(place + 1).toLocaleString("en")} of ${page.results.length.toLocaleString("en")}`;
}

/** Open number `number` of the view. `remember`: as a new entry of the browser's history. */
function show(number, remember = true) {
  page.selected[page.view] = number;
  const item = data[page.view][number], pattern = patternOf(find("search").value);
  turnTo("reader");
  find("name").textContent = item.id;
  find("place").textContent = placeText();
  const hash = `#${page.view === "personas" ? "persona=" : ""}${encodeURIComponent(item.id)}`;
  if (location.hash !== hash) history[remember ? "pushState" : "replaceState"](null, "", hash);
  if (page.view === "personas") {
    open.tree = null;
    drawPerson(number, pattern, (n) => { look("conversations"); show(n); });
  } else openTree(number, pattern);
  selectRow(number);
  toTop();
  const hit = pattern && page.view === "conversations" && find("sheet").querySelector("mark");
  if (hit) {
    steady(() => hit.scrollIntoView({ block: "center" }));
    open.at = Math.max(0, blocks().indexOf(hit.closest(".turn")));
    markHere();
    drawWho();
  }
}

/** Where there is room for one of them only: the list or the reader. */
function turnTo(pane) {
  find("app").dataset.pane = pane;
  if (pane === "list") drawRows();
}

/** Change between conversations and personas. */
function look(view) {
  if (page.view === view) return;
  page.view = view;
  find("app").dataset.view = view;
  for (const name of VIEWS) find(`tab-${name}`).setAttribute("aria-selected", String(name === view));
  find("sort").parentElement.hidden = view === "personas";
  drawFilters(view, refresh);
  refresh();
}

const toTop = () => steady(() => { find("reader").scrollTop = 0; });

function step(by) {
  if (!page.results.length) return;
  const place = page.results.indexOf(page.selected[page.view]);
  const next = place < 0 ? 0 : Math.max(0, Math.min(page.results.length - 1, place + by));
  if (page.results[next] !== page.selected[page.view]) show(page.results[next], false);
}

/** Open what the address names; false when it names nothing that is here. */
function visit() {
  let name = location.hash.slice(1);
  try {
    name = decodeURIComponent(name);
  } catch {
    return false;
  }
  const view = name.startsWith("persona=") ? "personas" : "conversations";
  const id = view === "personas" ? name.slice(8) : name, number = data[view].findIndex((item) => item.id === id);
  if (number < 0) return false;
  look(view);
  show(number, false);
  return true;
}

function toggleFilters(wanted = find("filters").hidden) {
  find("filters").hidden = !wanted;
  find("filter-button").setAttribute("aria-expanded", String(wanted));
  drawRows();
}

// Sign, name and the one after it.
const THEMES = { "": ["◐", "as the system", "light"], light: ["☀", "light", "dark"], dark: ["☾", "dark", ""] };
function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  find("theme").textContent = THEMES[theme][0];
  find("theme").setAttribute("aria-label", `Colours: ${THEMES[theme][1]}`);
  try {
    localStorage.setItem("aloe-theme", theme);
  } catch { /* a page opened from a file may have no storage */ }
}
function storedTheme() {
  try {
    return localStorage.getItem("aloe-theme") ?? "";
  } catch {
    return "";
  }
}
const nextTheme = () => setTheme(THEMES[document.documentElement.dataset.theme ?? ""][2]);

function keyed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || find("help").open) return;
  const field = event.target.closest("input, select, textarea");
  if (field) {
    if (event.key === "Escape") field.blur();
    if (field === find("search") && (event.key === "ArrowDown" || event.key === "Enter") && page.results.length) {
      event.preventDefault();
      field.blur();
      show(page.results.includes(page.selected[page.view]) ? page.selected[page.view] : page.results[0]);
    }
    return;
  }
  const inList = event.target === find("list");
  const inTree = page.view === "conversations" && open.tree && !inList, turn = open.path[open.at];
  const keys = {
    "/": () => { turnTo("list"); find("search").select(); find("search").focus(); },
    j: () => step(1),
    k: () => step(-1),
    f: () => toggleFilters(),
    t: nextTheme,
    "?": () => find("help").showModal(),
    Escape: () => turnTo("list"),
    ArrowDown: inList ? () => step(1) : inTree && (() => goTo(Math.min(open.path.length - 1, open.at + 1))),
    ArrowUp: inList ? () => step(-1) : inTree && (() => (open.at ? goTo(open.at - 1) : toTop())),
    ArrowLeft: inTree && (() => choose(turn, 0)),
    ArrowRight: inTree && (() => choose(turn, 1)),
  };
  const act = keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function start() {
  document.title = find("title").textContent = data.title;
  find("badge").hidden = find("notice").hidden = !data.simulated;
  find("notice").textContent = data.simulated;
  find("tab-conversations").lastElementChild.textContent = data.conversations.length.toLocaleString("en");
  find("tab-personas").lastElementChild.textContent = data.personas.length.toLocaleString("en");
  find("provenance").textContent = data.provenance;
  const keys = [["", "as in the data"], ...data.measures.map((measure) => [measure.key, measure.label])];
  find("sort").replaceChildren(...keys.map(([value, shown]) => make("option", { value }, shown)));
  const defined = data.measures.flatMap((it) => [make("dt", {}, it.label), make("dd", {}, it.help)]);
  find("measures").replaceChildren(...defined);
  filterBy = (name, id) => {
    filters[name] = id;
    drawFilters(page.view, refresh);
    refresh();
    turnTo("list");
  };

  find("search").addEventListener("input", refresh);
  find("sort").addEventListener("change", () => { order.key = find("sort").value; order.down = true; turned(); });
  const turned = () => { find("direction").textContent = order.down ? "↓" : "↑"; refresh(); };
  find("direction").addEventListener("click", () => { order.down = !order.down; turned(); });
  find("filter-button").addEventListener("click", () => toggleFilters());
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  find("list").addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
  find("rows").addEventListener("click", (event) => {
    const row = event.target.closest(".row");
    if (row) show(Number(row.dataset.number));
  });
  find("reader").addEventListener("scroll", () => following && requestAnimationFrame(follow), { passive: true });
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("back").addEventListener("click", () => turnTo("list"));
  find("copy").addEventListener("click", copyLink);
  find("theme").addEventListener("click", nextTheme);
  find("help-button").addEventListener("click", () => find("help").showModal());
  for (const view of VIEWS) {
    find(`tab-${view}`).addEventListener("click", () => {
      look(view);
      turnTo("list");
      const number = page.selected[view] >= 0 ? page.selected[view] : page.results[0];
      if (number !== undefined && innerWidth > 760) show(number);
    });
  }
  addEventListener("keydown", keyed);
  addEventListener("hashchange", visit);
  addEventListener("resize", drawRows);

  if (!data.conversations.length) look("personas");
  drawFilters(page.view, refresh);
  refresh();
  if (!visit()) {
    const number = page.results[0];
    if (number !== undefined) show(number, false);
    turnTo("list");
  }
  find("who").classList.toggle("folded", innerWidth <= 760);
  if (open.tree) drawWho();
  setTimeout(prepareSearch, 50);
  document.documentElement.dataset.ready = "yes";
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    find("copy").textContent = "Copied";
  } catch {
    find("copy").textContent = "Copy it from the address bar";
  }
  setTimeout(() => { find("copy").textContent = "Copy link"; }, 1500);
}

setTheme(storedTheme());
unpack().then(start).catch((error) => {
  find("sheet").replaceChildren(make("p.blank", {}, `The data could not be unpacked: ${error.message}.`));
  throw error;
});
