// Which conversations are listed, and in which order.

const STEPS = 100;
const filters = { split: "", turns: "", hint: "", profile: "", personality: "", ranges: {} };
const order = { key: "", down: true };

const HINTS = {
  all: ["won at every turn", (won, lost) => won > 0 && lost === 0],
  more: ["won more often than it lost", (won, lost) => won > lost],
  some: ["lost at some turn", (won, lost) => lost > 0],
  less: ["lost more often than it won", (won, lost) => lost > won],
};

const columnOf = (key) => data.measures.findIndex((measure) => measure.key === key);

function hintCounts(tree) {
  const won = tree.turns.filter((turn) => turn.h === 0).length;
  return [won, tree.turns.filter((turn) => turn.h === 1).length];
}

/** Per measure that varies: its smallest and largest value and a histogram. */
function ranges() {
  return data.measures.flatMap((measure, column) => {
    const values = data.conversations.map((tree) => tree.measures[column]).filter((value) => value !== null);
    const low = values.reduce((a, b) => Math.min(a, b), Infinity);
    const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
    if (!(high > low)) return [];
    const bins = new Array(40).fill(0);
    for (const value of values) bins[Math.min(39, Math.floor((40 * (value - low)) / (high - low)))]++;
    return [{ measure, column, low, high, bins }];
  });
}

/** A test for the numbers of `view` that pass the filters. */
function passes(view) {
  const { split, turns, profile, personality } = filters;
  const isOf = (persona) => (!profile || profileId(persona) === profile) &&
    (!personality || personalityId(persona) === personality);
  if (view === "personas") {
    const inSplit = (persona) => !split || persona.split === split ||
      persona.talks.some((number) => data.conversations[number].split === split);
    return (number) => isOf(data.personas[number]) && inSplit(data.personas[number]);
  }
  const limits = Object.entries(filters.ranges).map(([key, limit]) => [columnOf(key), ...limit]);
  const hint = HINTS[filters.hint]?.[1];
  const within = (value, low, high) => value !== null && value >= low && value <= high;
  return (number) => {
    const tree = data.conversations[number];
    return (!split || tree.split === split) && isOf(data.personas[tree.persona]) &&
      (!turns || (turns === "forked" ? tree.forked : String(tree.depth) === turns)) &&
      (!hint || hint(...hintCounts(tree))) &&
      limits.every(([column, low, high]) => within(tree.measures[column], low, high));
  };
}

/** The numbers of `view` in the chosen order. Values that are not there come last, equal ones as in the data. */
function ordered(view) {
  const numbers = [...data[view].keys()];
  const column = columnOf(order.key);
  if (view === "conversations" && column >= 0) {
    const value = (n) => data.conversations[n].measures[column] ?? (order.down ? -Infinity : Infinity);
    numbers.sort((a, b) => (order.down ? value(b) - value(a) : value(a) - value(b)) || a - b);
  } else if (!order.down) numbers.reverse();
  return numbers;
}

/** The filters in force as [what to show, what removes it]. */
function inForce(view) {
  const chips = [];
  const chip = (name, shown) => filters[name] && chips.push([shown, () => { filters[name] = ""; }]);
  chip("split", filters.split);
  chip("profile", `profile ${filters.profile}`);
  chip("personality", `personality ${filters.personality}`);
  if (view === "personas") return chips;
  chip("turns", filters.turns === "forked" ? "forked" : `${filters.turns} turns`);
  chip("hint", `hint ${HINTS[filters.hint]?.[0]}`);
  for (const [key, [low, high]] of Object.entries(filters.ranges)) {
    const measure = data.measures[columnOf(key)];
    const shown = `${measure.label} ${written(measure, low)} to ${written(measure, high)}`;
    chips.push([shown, () => { delete filters.ranges[key]; }]);
  }
  return chips;
}

/** Fill the filter form; `changed` is called after every change. */
function drawFilters(view, changed) {
  const choose = (name, label, options) => {
    const field = make("select", { onchange: () => { filters[name] = field.value; changed(); } },
      make("option", { value: "" }, "any"), ...options.map(([value, shown]) => make("option", { value }, shown)));
    field.value = filters[name];
    return make("label", {}, label, field);
  };
  const type = (name, label, ids) => {
    const list = make("datalist", { id: `ids-${name}` }, ...ids.map((id) => make("option", { value: id })));
    const field = make("input", { list: list.id, placeholder: "any", autocomplete: "off", spellcheck: "false",
      oninput: () => {
        const wanted = field.value.trim();
        // While an id is being typed nothing is filtered by it.
        filters[name] = ids.includes(wanted) ? wanted : "";
        changed();
      } });
    field.value = filters[name];
    return make("label", {}, label, field, list);
  };
  const personas = data.personas, trees = data.conversations;
  const collator = new Intl.Collator("en", { numeric: true });
  const distinct = (values) => [...new Set(values)].filter(Boolean).sort(collator.compare);
  const splits = distinct([...(view === "personas" ? personas : []), ...trees].map((item) => item.split));
  const fields = [];
  if (splits.length > 1) fields.push(choose("split", "Split", splits.map((split) => [split, split])));
  if (view === "conversations") {
    const depths = distinct(trees.map((tree) => tree.depth)).map((depth) => [String(depth), String(depth)]);
    const forks = trees.some((tree) => tree.forked) ? [["forked", "forked trees"]] : [];
    if (depths.length + forks.length > 1) fields.push(choose("turns", "Turns", [...depths, ...forks]));
    if (trees.some((tree) => tree.turns.some((turn) => turn.h !== null))) {
      fields.push(choose("hint", "Reply with the hint", Object.entries(HINTS).map(([key, [shown]]) => [key, shown])));
    }
  }
  fields.push(type("profile", "Profile", distinct(personas.map(profileId))));
  const traits = distinct(personas.map(personalityId));
  if (traits.length) fields.push(type("personality", "Personality", traits));
  find("filters").replaceChildren(make("div.pair", {}, ...fields),
    ...(view === "conversations" ? ranges().map((range) => drawRange(range, changed)) : []));
}

function drawRange({ measure, low, high, bins }, changed) {
  const top = Math.max(...bins), bars = bins.map((count) => {
    const bar = make("i");
    bar.style.height = `${Math.round((100 * Math.sqrt(count)) / Math.sqrt(top))}%`;
    return bar;
  });
  const output = make("output");
  const thumb = (name, start) => make("input", {
    type: "range", min: 0, max: STEPS, value: start, "aria-label": `${measure.label}, ${name}`, oninput: () => update(true),
  });
  const at = (value) => Math.round((STEPS * (value - low)) / (high - low));
  const [from, to] = filters.ranges[measure.key] ?? [low, high];
  const lower = thumb("at least", at(from)), upper = thumb("at most", at(to));
  function update(act) {
    const [a, b] = [Number(lower.value), Number(upper.value)].sort((x, y) => x - y);
    // The ends are the exact extremes, so that rounding leaves nothing out.
    const value = (step) => (step === STEPS ? high : low + ((high - low) * step) / STEPS), limits = [value(a), value(b)];
    bars.forEach((bar, n) => {
      const middle = (STEPS * (n + 0.5)) / bars.length;
      bar.classList.toggle("in", middle >= a && middle <= b);
    });
    output.textContent = `${written(measure, limits[0])} to ${written(measure, limits[1])}`;
    if (!act) return;
    if (a === 0 && b === STEPS) delete filters.ranges[measure.key];
    else filters.ranges[measure.key] = limits;
    changed();
  }
  update(false);
  return make("div.range", { title: measure.help }, make("div.head", {}, make("span", {}, measure.label), output),
    make("div.bins", {}, ...bars), make("div.thumbs", {}, lower, upper));
}
