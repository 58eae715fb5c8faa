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
// The header of an answer: where it comes from, and its measures.
const LABELS = { gold: "gold", score: "score", kl: "KL", length: "tokens" };
const header = (which, { measures: known = {}, cut }) => {
  const shown = Object.keys(LABELS).filter((name) => known[name]).map((name) =>
    name === "length" ? make("span", "", make("b", "", known[name][1]), " tokens")
      : make("span", "", `${LABELS[name]} `, make("b", "", known[name][1])));
  if (cut) shown.push(make("span", "", "cut off at the length limit"));
  return make("header", "", make("span", "which", which), ...shown);
};
// A section with a form that chooses among the data of the page; null if the page has no such section.
const chooser = (id) => {
  const source = document.getElementById(`${id}-data`);
  if (!source) return null;
  const section = document.getElementById(id);
  const [form, status, list, more] = ["form", "[role=status]", ".list", ".more"].map((s) => section.querySelector(s));
  form.addEventListener("submit", (event) => event.preventDefault());
  section.querySelector(".browser").hidden = false;
  return { data: JSON.parse(source.textContent), section, form, status, list, more };
};
// Tells which of some texts have all words of a query.
const search = (texts) => {
  const lowered = texts.map((parts) => parts.join("\n").toLowerCase());
  return (query) => {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    return (i) => words.every((word) => lowered[i].includes(word));
  };
};
// What a person has chosen is kept in the address behind a name, so that a view can be kept as a link.
const inAddress = (name) => ({
  read: () => (location.hash.startsWith(`#${name}:`)
    ? Object.fromEntries(new URLSearchParams(location.hash.slice(name.length + 2))) : {}),
  write: (state) => history.replaceState(null, "", `#${name}:${new URLSearchParams(state)}`),
});
