// Drawing: the person, the conversation, the reply, and how far one is.

const listed = (sentences) => make("ul", {}, ...sentences.map((text) => make("li", {}, text)));

function drawOnce() {
  const count = data.items.length;
  find("notice").hidden = find("badge").hidden = !data.simulated;
  find("notice").textContent = data.simulated;
  for (const [name, text] of data.criteria) find("criteria").append(make("dt", {}, name), make("dd", {}, text));
  data.scale.forEach((text, index) => {
    const rating = String(index + 1);
    const button = make("button.rating", { "data-rating": rating, "aria-pressed": "false", title: text });
    button.append(make("b", {}, rating), make("span", {}, text));
    find("ratings").append(button);
    find("levels").prepend(make("dt", {}, rating), make("dd", {}, text));
  });
  find("bar").setAttribute("aria-valuemax", count);
  find("total").textContent = plural(count, "reply", "replies");
}

/** The item that is open now. */
function drawItem() {
  const one = data.items[state.at], person = data.personas[one.persona];
  find("life").replaceChildren(listed(person.profile));
  find("character").replaceChildren(listed(person.personality));
  const said = one.path.map((text, place) => make(
    place % 2 ? "li.assistant" : "li.person", {},
    make("span.by", {}, place % 2 ? "Assistant" : "Person"), make("p.words", {}, text),
  ));
  find("path").replaceChildren(...said);
  find("reply").textContent = one.reply;
  find("note").value = answerTo(one.item).note;
  find("noting").hidden = !find("note").value;
  find("who").scrollTop = 0;
  find("fold").setAttribute("aria-expanded", "false");
  drawAnswer();
  toReply();
}

/** Scroll so that the reply is seen whole, or from its beginning where it is too long for that. */
function toReply() {
  const reply = find("rated"), room = reply.closest(".app").getBoundingClientRect();
  shownHeight = room.height;
  reply.scrollIntoView({ block: "end" });
  if (reply.getBoundingClientRect().top < room.top) reply.scrollIntoView({ block: "start" });
}

/** When what is below grows or shrinks, what was just above it stays there. */
function holdReply() {
  const { height } = find("talk").closest(".app").getBoundingClientRect();
  scroller().scrollTop += shownHeight - height;
  shownHeight = height;
}
let shownHeight = 0;

// As in the style: where there is room for one column only, it scrolls as a whole.
const scroller = () => (matchMedia("(max-width: 720px)").matches ? find("talk").parentElement : find("talk"));

/** What was answered, and everything that counts answers. */
function drawAnswer() {
  const answer = answerTo(current()), count = data.items.length, given = done();
  for (const button of find("ratings").children) {
    button.setAttribute("aria-pressed", String(button.dataset.rating === String(answer.rating)));
  }
  find("pass").setAttribute("aria-pressed", String(answer.rating === null));
  find("note-button").setAttribute("aria-expanded", String(!find("noting").hidden));
  find("place").textContent = `Reply ${state.at + 1} of ${count}`;
  find("back").disabled = state.at === 0;
  find("on").disabled = state.at === count - 1;
  find("undo").disabled = !past.length;
  find("open").disabled = given === count;
  find("count").textContent = `${given} of ${count} rated`;
  find("bar").setAttribute("aria-valuenow", given);
  find("bar").setAttribute("aria-valuetext", `${given} of ${count}`);
  find("bar").firstElementChild.style.width = `${(100 * given) / count}%`;
  find("finished").hidden = given < count;
  find("follow").checked = state.follow;
  find("name-button").textContent = state.rater || "Your name";
  find("kept").textContent = kept ? "Saved in this browser" : "Not saved: this browser keeps nothing. Download!";
  find("kept").classList.toggle("warning", !kept);
  find("download").classList.toggle("main", state.unsaved > 0 && (given === count || !kept));
  document.documentElement.dataset.theme = state.theme;
}

/** In words where one is, for the line that is spoken. */
function whereabouts() {
  const { rating } = answerTo(current());
  const now = rating === undefined ? "not rated yet" : rating === null ? "passed over" : `rated ${rating}`;
  return `Reply ${state.at + 1} of ${data.items.length}, ${now}.`;
}
