// Building elements and telling what happened. Text always enters the page as text nodes.

const find = (id) => document.getElementById(id);

/** An element: make("p.words", {title: "…"}, "text", child, …). */
function make(kind, given = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(given)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

/** One line under the ratings: what happened; `also` is for screen readers, which speak both. */
function say(text, also = "") {
  find("said").replaceChildren(text, make("span.unseen", {}, ` ${also}`));
}
