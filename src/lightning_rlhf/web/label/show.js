// What the page looks like. A button names the key that it stands for (data-key), and act.js obeys both.

import { at, make } from "/common.js";

export const page = {
  person: "",
  state: null, // what the server said last
  token: "", // what is shown
  strength: null, // 1, 2 or 3
  raw: false, // whether texts are shown as they are
  dropped: {}, // texts that were discarded, by the box in which they were typed
  drafts: {}, // what was said about questions that were left without an answer
  marked: null, // HTML of the differences, while they are shown
  since: 0, // when the question appeared
};
const HOW = ["", "slightly ", "clearly ", "much "];

export function say(words, wrong = false) {
  at("status").textContent = words;
  at("status").classList.toggle("wrong", wrong);
}

export function show(state) {
  const { question } = state;
  page.state = state;
  showProgress(state.progress);
  at("question").hidden = at("actions").hidden = !question;
  at("message").hidden = !!question;
  if (!question) return showMessage(state);
  // A question that the server repeats stays as it is, with what has been typed.
  if (!state.before && page.token === question.token) return;
  const before = state.before ?? page.drafts[named(question)];
  Object.assign(page, {
    token: question.token, strength: before?.strength ?? null, marked: null, dropped: {},
    since: performance.now(),
  });
  at("edited").value = before?.edited ?? "";
  at("comment").value = before?.comment ?? "";
  at("editor").hidden = at("noter").hidden = true;
  at("prompt").replaceChildren(...question.prompt.map(turn));
  at("answers").replaceChildren(...question.answers.map(card));
  at("answers").dataset.count = question.answers.length;
  at("verdicts").replaceChildren(...verdicts(question.answers.length));
  at("starts").replaceChildren("Start from", ...starts(question.answers.length));
  fill();
  mark();
  scrollTo(0, 0);
  at("prompt").scrollTop = at("prompt").scrollHeight;
}

// Puts the texts into their places. The server has made HTML of Markdown, and has left nothing in it that acts.
export function fill() {
  const { prompt, answers } = page.state.question;
  const put = (element, { html, text }, marked) => {
    element.classList.toggle("raw", page.raw || !!marked);
    if (!marked && page.raw) element.textContent = text;
    else element.innerHTML = marked || html;
  };
  all("#prompt .text", (element, place) => put(element, prompt[place]));
  all("#answers .text", (element, place) => put(element, answers[place], page.marked?.[place]));
}

// Shows what a person has chosen and typed so far. The texts stay as they are, with what is selected in them.
export function mark() {
  const { marked, raw, strength } = page;
  all(".how", (element) => { element.textContent = `is ${HOW[strength ?? 0]}better`; });
  const pressed = { d: !!marked, r: raw, l: strength === 1, c: strength === 2, m: strength === 3 };
  for (const [key, on] of Object.entries(pressed)) {
    all(`.tools [data-key="${key}"]`, (button) => button.setAttribute("aria-pressed", on));
  }
  const kept = typed();
  at("kept").hidden = !kept.length || !at("editor").hidden || !at("noter").hidden;
  at("kept").textContent = `Your choice also saves ${kept.join(" and ")}.`;
}

// What has been said about the question, but not sent yet.
export const said = () => ({ strength: page.strength, edited: at("edited").value, comment: at("comment").value });

// Keeps what has been said about the question, in case that it is asked again.
export function keepDraft() {
  if (page.state.question) page.drafts[named(page.state.question)] = said();
}

const named = ({ item, round }) => `${item} ${round}`;

// Names what has been typed.
export function typed() {
  const words = { edited: "an edited answer", comment: "a comment" };
  return Object.keys(words).filter((id) => at(id).value.trim()).map((id) => words[id]);
}

export function showPeople({ people, agreements, team }) {
  const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)} %`);
  const table = (id, head, rows) => at(id).replaceChildren(...(rows.length ? [head, ...rows] : []).map((cells, number) =>
    make("tr", "", ...cells.map((cell) => make(number ? "td" : "th", "", cell)))));
  table("habits", ["Name", "Choices", "Same answer when asked again", "Chose the answer shown first"], people.map((one) => [
    one.person, one.choices, one.repeats ? `${one.kept} of ${one.repeats}` : "–", percent(one.first),
  ]));
  table("agreements", ["People", "Same items", "Agreed", "κ"], [
    ...agreements.map((one) => ({ ...one, name: one.people.join(" and ") })), ...(team ? [{ ...team, name: "all" }] : []),
  ].map((one) => [
    one.name, one.shared, percent(one.agreed / one.shared), one.kappa?.toFixed(2) ?? "–",
  ]));
}

function showMessage({ state, message, progress }) {
  const [title, text] = {
    wait: ["One moment", message],
    failed: ["No more answers", message],
    done: ["That is all", progress.done ? "There are no more questions for you." : "There is nothing to ask you."],
  }[state];
  // What is shown already stays, with what is selected in it.
  const shown = JSON.stringify([state, text, !!progress.done]);
  if (at("message").dataset.shown === shown) return;
  at("message").dataset.shown = shown;
  at("message").className = state;
  const undo = progress.done ? [keyed("u", "", "Undo")] : [];
  at("message").replaceChildren(make("h1", "", title), make("p", "", text), ...undo);
}

function showProgress({ done, left, rate }) {
  const minutes = rate && Math.ceil(left / rate);
  at("bar").max = done + left || 1;
  at("bar").value = done;
  at("progress").textContent = [
    `${done} done`,
    left && `about ${left} left`,
    rate && `${rate.toFixed(1)} a minute`,
    minutes && (minutes < 90 ? `${minutes} min to go` : `${(minutes / 60).toFixed(1)} h to go`),
  ].filter(Boolean).join(" · ");
}

function turn({ role }) {
  return make("div", `turn ${role}`, make("span", "role", role), textBox());
}

function card({ finished }, place) {
  const pick = keyed(place + 1, "pick", make("span", "how"));
  const cut = finished ? [] : [make("span", "quiet", "cut off at the length limit")];
  return make("article", "answer", make("div", "row", pick, ...cut), textBox());
}

function textBox() {
  return Object.assign(make("div", "text"), { dir: "auto" });
}

function verdicts(count) {
  const better = Array.from({ length: count }, (_, place) => keyed(place + 1, "verdict", "Better"));
  const others = { "=": "Tie", 0: count > 2 ? "All bad" : "Both bad", s: "Skip", u: "Undo" };
  // Keys that are digits come first in an object, so their order is given.
  return [...better, ...["=", "0", "s", "u"].map((key) => keyed(key, "verdict", others[key]))];
}

function starts(count) {
  const places = Array.from({ length: count }, (_, place) => make("button", "", place + 1));
  return [...places, make("button", "", "nothing")].map((button, place) => {
    button.dataset.start = place;
    return button;
  });
}

function keyed(key, className, words) {
  const button = make("button", className, make("kbd", "", key), words);
  button.dataset.key = key;
  return button;
}

function all(selector, act) {
  document.querySelectorAll(selector).forEach(act);
}
