// What the page looks like. A button names the key that it stands for (data-key), and act.js obeys both.

export const $ = (id) => document.getElementById(id);

export const page = {
  person: "",
  state: null, // what the server said last
  token: "", // what is shown
  strength: null, // 1, 2 or 3
  raw: false, // whether texts are shown as they are
  dropped: {}, // texts that were discarded, by the box in which they were typed
  marked: null, // HTML of the differences, while they are shown
  since: 0, // when the question appeared
};
const HOW = ["", "slightly ", "clearly ", "much "];

export function say(words, wrong = false) {
  $("status").textContent = words;
  $("status").classList.toggle("wrong", wrong);
}

export function show(state) {
  const { question, before } = state;
  page.state = state;
  showProgress(state.progress);
  $("question").hidden = $("actions").hidden = !question;
  $("message").hidden = !!question;
  if (!question) return showMessage(state);
  // A question that the server repeats stays as it is, with what has been typed.
  if (!before && page.token === question.token) return;
  Object.assign(page, {
    token: question.token, strength: before?.strength ?? null, marked: null, dropped: {},
    since: performance.now(),
  });
  $("edited").value = before?.edited ?? "";
  $("comment").value = before?.comment ?? "";
  $("editor").hidden = $("noter").hidden = true;
  $("prompt").replaceChildren(...question.prompt.map(turn));
  $("answers").replaceChildren(...question.answers.map(card));
  $("answers").dataset.count = question.answers.length;
  $("verdicts").replaceChildren(...verdicts(question.answers.length));
  $("starts").replaceChildren("Start from", ...starts(question.answers.length));
  fill();
  scrollTo(0, 0);
  $("prompt").scrollTop = $("prompt").scrollHeight;
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
  all(".how", (element) => { element.textContent = `is ${HOW[page.strength ?? 0]}better`; });
  const { marked, raw, strength } = page;
  const pressed = { d: !!marked, r: raw, l: strength === 1, c: strength === 2, m: strength === 3 };
  for (const [key, on] of Object.entries(pressed)) {
    all(`.tools [data-key="${key}"]`, (button) => button.setAttribute("aria-pressed", on));
  }
  const kept = typed();
  $("kept").hidden = !kept.length || !$("editor").hidden || !$("noter").hidden;
  $("kept").textContent = `Your choice also saves ${kept.join(" and ")}.`;
}

// Names what has been typed.
export function typed() {
  const words = { edited: "an edited answer", comment: "a comment" };
  return Object.keys(words).filter((id) => $(id).value.trim()).map((id) => words[id]);
}

export function showPeople({ people, agreements }) {
  const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)} %`);
  const table = (id, head, rows) => $(id).replaceChildren(...(rows.length ? [head, ...rows] : []).map((cells, number) =>
    make("tr", {}, ...cells.map((cell) => make(number ? "td" : "th", { textContent: cell })))));
  table("habits", ["Name", "Choices", "Same answer when asked again", "Chose the answer shown first"], people.map((one) => [
    one.person, one.choices, one.repeats ? `${one.kept} of ${one.repeats}` : "–", percent(one.first),
  ]));
  table("agreements", ["People", "Same items", "Agreed", "κ"], agreements.map((one) => [
    one.people.join(" and "), one.shared, percent(one.agreed / one.shared), one.kappa?.toFixed(2) ?? "–",
  ]));
  $("people").showModal();
}

function showMessage({ state, message, progress }) {
  const [title, text] = {
    wait: ["One moment", message],
    failed: ["No more answers", message],
    done: ["That is all", progress.done ? "There are no more questions for you." : "There is nothing to ask you."],
  }[state];
  $("message").className = state;
  const undo = progress.done ? [keyed("u", "", "Undo")] : [];
  $("message").replaceChildren(make("h1", { textContent: title }), make("p", { textContent: text }), ...undo);
}

function showProgress({ done, left, rate }) {
  const minutes = rate && Math.ceil(left / rate);
  $("bar").max = done + left || 1;
  $("bar").value = done;
  $("progress").textContent = [
    `${done} done`,
    left && `about ${left} left`,
    rate && `${rate.toFixed(1)} a minute`,
    minutes && (minutes < 90 ? `${minutes} min to go` : `${(minutes / 60).toFixed(1)} h to go`),
  ].filter(Boolean).join(" · ");
}

function turn({ role }) {
  return make("div", { className: `turn ${role}` }, make("span", { className: "role", textContent: role }),
    make("div", { className: "text", dir: "auto" }));
}

function card({ finished }, place) {
  const pick = keyed(place + 1, "pick", make("span", { className: "how" }));
  const cut = finished ? [] : [make("span", { className: "quiet", textContent: "cut off at the length limit" })];
  return make("article", { className: "answer" }, make("div", { className: "row" }, pick, ...cut),
    make("div", { className: "text", dir: "auto" }));
}

function verdicts(count) {
  const better = Array.from({ length: count }, (_, place) => keyed(place + 1, "verdict", "Better"));
  const others = { "=": "Tie", 0: count > 2 ? "All bad" : "Both bad", s: "Skip", u: "Undo" };
  // Keys that are digits come first in an object, so their order is given.
  return [...better, ...["=", "0", "s", "u"].map((key) => keyed(key, "verdict", others[key]))];
}

function starts(count) {
  const places = Array.from({ length: count }, (_, place) => make("button", { textContent: place + 1 }));
  return [...places, make("button", { textContent: "nothing" })].map((button, place) => {
    button.dataset.start = place;
    return button;
  });
}

function keyed(key, className, words) {
  const button = make("button", { className }, make("kbd", { textContent: key }), words);
  button.dataset.key = key;
  return button;
}

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function all(selector, act) {
  document.querySelectorAll(selector).forEach(act);
}
