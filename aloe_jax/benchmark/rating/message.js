// The line that says what happened.

/** One line under the ratings: what happened; `also` is for screen readers, which speak both. */
function say(text, also = "") {
  find("said").replaceChildren(text, make("span.unseen", {}, ` ${also}`));
}
