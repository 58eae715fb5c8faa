"use strict";
// Makes an element; text that is put into it stays text.
const make = (tag, className, ...inside) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...inside);
  return node;
};
const shownText = (text, ...inside) =>
  text.trim() ? make("div", "text", ...(inside.length ? inside : [text])) : make("div", "empty", "no text");
const conversation = (messages) =>
  make("div", "conversation", ...messages.map(([role, text]) =>
    make("div", role === "user" ? "turn asked" : "turn",
      make("span", "role", role.charAt(0).toUpperCase() + role.slice(1)), shownText(text))));
// The measures of a sample, as the header of its answer shows them.
const LABELS = { gold: "gold", score: "score", kl: "KL", length: "tokens" };
const measures = (known) =>
  Object.keys(LABELS).filter((name) => known[name]).map((name) =>
    name === "length" ? make("span", "", make("b", "", known[name][1]), " tokens")
      : make("span", "", `${LABELS[name]} `, make("b", "", known[name][1])));
// What a person has chosen is kept in the address behind a name, so that a view can be kept as a link.
const inAddress = (name) => ({
  read: () => (location.hash.startsWith(`#${name}:`)
    ? Object.fromEntries(new URLSearchParams(location.hash.slice(name.length + 2))) : {}),
  write: (state) => history.replaceState(null, "", `#${name}:${new URLSearchParams(state)}`),
});
