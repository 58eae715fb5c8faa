// What a person does, by keys or by buttons.

import { at, given } from "/common.js";
import { fill, keepDraft, mark, page, said, say, show, showPeople, typed } from "/show.js";
import { ask } from "/talk.js";

const WAIT = { wait: 300, failed: 3000, done: 3000 }; // milliseconds until the page looks for a question again
let busy = false, timer = 0;

// Runs a request unless one is under way, and shows what the server says next.
async function proceed(path, body, words) {
  if (busy) return;
  hold(true);
  clearTimeout(timer);
  try {
    const state = await ask(path, { person: page.person, ...body });
    show(state);
    if (words !== undefined) say(words);
    if (!state.question) timer = setTimeout(() => proceed("/question", {}), WAIT[state.state]);
  } catch (error) {
    say(error.message, true);
    // The server has another question, perhaps because it was started with other settings.
    if ([404, 409].includes(error.status)) {
      keepDraft();
      timer = setTimeout(() => proceed("/question", {}));
    }
  } finally {
    hold(false);
  }
}

// While a request is under way, nothing is typed that it does not send.
function hold(on) {
  busy = at("edited").readOnly = at("comment").readOnly = on;
  document.body.classList.toggle("busy", on);
}

function send(verdict, pick, words) {
  const { item, round, token } = page.state.question;
  proceed("/answer", {
    item, round, token, verdict, pick, ...said(), strength: pick === null ? null : page.strength,
    seconds: (performance.now() - page.since) / 1000,
  }, `${words}. u undoes it.`);
}

function choose(place) {
  if (place < page.state.question.answers.length) send("better", place, `Saved: ${place + 1} is better`);
}

function undo() {
  if (!page.state.last) return say("There is nothing to undo.");
  keepDraft();
  return proceed("/undo", { choice: page.state.last }, "Undone.");
}

async function differ() {
  const { item, round, token } = page.state.question;
  const marked = page.marked ? null : await ask("/differences", { person: page.person, item, round });
  if (page.token === token) {
    page.marked = marked;
    fill();
    mark();
  }
}

function strong(by) {
  page.strength = page.strength === by ? null : by;
  mark();
}

function plain() {
  Object.assign(page, { raw: !page.raw, marked: null });
  fill();
  mark();
}

function open(box, text, start) {
  text.value ||= page.dropped[text.id] || start;
  at("editor").hidden = box !== "editor";
  at("noter").hidden = box !== "noter";
  mark();
  text.focus();
  at(box).scrollIntoView({ block: "nearest" });
}

function close(box, text, keep) {
  if (!keep && text.value.trim()) {
    // Escape is pressed by mistake, too.
    page.dropped[text.id] = text.value;
    text.value = "";
    say(`Discarded. ${box === "editor" ? "e" : "n"} brings it back.`);
  }
  at(box).hidden = true;
  text.blur();
  mark();
}

async function rename() {
  at("name").value = page.person;
  const told = await given(at("naming"), at("name")), name = at("name").value.trim();
  if (told && name) return begin(name);
  // Without a name, nothing can be saved.
  if (!page.state) return rename();
}

function begin(person) {
  // What somebody else has typed is not theirs.
  if (person !== page.person) Object.assign(page, { token: "", drafts: {} });
  page.person = at("who").textContent = person;
  localStorage.setItem("person", person);
  return proceed("/question", {});
}

// Opens before the server answers, because a dialog that came later would take the keys from somebody who types.
async function people() {
  at("people").showModal();
  showPeople(await ask("/people"));
}

const both = () => (page.state.question.answers.length > 2 ? "all" : "both");
const ABOUT_QUESTION = {
  ...Object.fromEntries([0, 1, 2, 3].map((place) => [place + 1, () => choose(place)])),
  "=": () => send("tie", null, "Saved: a tie"),
  0: () => send("both_bad", null, `Saved: ${both()} bad`),
  s: () => send("skip", null, "Skipped"),
  l: () => strong(1), c: () => strong(2), m: () => strong(3),
  e: () => open("editor", at("edited"), page.state.question.answers[0].text),
  n: () => open("noter", at("comment"), ""),
  d: differ, r: plain,
};
const ALWAYS = { u: undo, p: people, "?": () => at("help").showModal() };

async function obey(key) {
  const act = ALWAYS[key] ?? (page.state?.question && ABOUT_QUESTION[key]);
  if (!act || busy || !page.state) return false;
  try {
    await act();
  } catch (error) {
    say(error.message, true);
  }
  return true;
}

// Some keyboards, such as the French one, have their digits behind Shift.
function meant({ key, code, shiftKey }) {
  if (key in ABOUT_QUESTION || key in ALWAYS) return key;
  return !shiftKey && /^Digit[0-4]$/.test(code) ? code.at(-1) : key.toLowerCase();
}

document.addEventListener("keydown", (event) => {
  const elsewhere = document.querySelector("dialog[open]") || event.target.matches("textarea, input");
  if (elsewhere || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = meant(event);
  if (key in ABOUT_QUESTION || key in ALWAYS) {
    event.preventDefault();
    obey(key);
  }
});

document.addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (button?.dataset.key) obey(button.dataset.key);
  if (button?.dataset.start) {
    at("edited").value = page.state.question.answers[button.dataset.start]?.text ?? "";
    at("edited").focus();
  }
});

for (const [box, text] of [["editor", "edited"], ["noter", "comment"]]) {
  const [drop, keep] = at(box).querySelectorAll("[data-keep]");
  drop.onclick = () => close(box, at(text), false);
  keep.onclick = () => close(box, at(text), true);
  at(text).addEventListener("keydown", (event) => {
    const keeps = event.key === "Enter" && (event.ctrlKey || event.metaKey);
    if (event.key !== "Escape" && !keeps) return;
    event.preventDefault();
    close(box, at(text), keeps);
  });
}
// What has been typed is saved with a choice, so a browser asks before it loses that.
addEventListener("beforeunload", (event) => {
  if (page.state?.question && typed().length) event.preventDefault();
});

const settings = await ask("/settings"), known = localStorage.getItem("person");
page.person = settings.person;
at("who").onclick = () => busy || rename();
await (known ? begin(known) : rename());
