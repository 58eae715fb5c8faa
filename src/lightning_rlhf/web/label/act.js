// What a person does, by keys or by buttons.

import { $, fill, page, say, show, showPeople, typed } from "/show.js";
import { ask, closed } from "/talk.js";

const WAIT = { wait: 300, failed: 3000, done: 3000 }; // milliseconds until the page looks for a question again
let busy = false, timer = 0;

// Runs a request unless one is under way, and shows what the server says next.
async function proceed(path, body, words) {
  if (busy) return;
  busy = true;
  document.body.classList.add("busy");
  clearTimeout(timer);
  try {
    const state = await ask(path, { person: page.person, ...body });
    show(state);
    if (words !== undefined) say(words);
    if (!state.question) timer = setTimeout(() => proceed("/question", {}), WAIT[state.state]);
  } catch (error) {
    say(error.message, true);
    // The server has another question, perhaps because it was started with other settings.
    if ([404, 409].includes(error.status)) timer = setTimeout(() => proceed("/question", {}));
  } finally {
    busy = false;
    document.body.classList.remove("busy");
  }
}

function send(verdict, pick, words) {
  const { item, round, token } = page.state.question;
  proceed("/answer", {
    item, round, token, verdict, pick,
    strength: pick === null ? null : page.strength,
    edited: $("edited").value, comment: $("comment").value,
    seconds: (performance.now() - page.since) / 1000,
  }, `${words}. u undoes it.`);
}

function choose(place) {
  if (place < page.state.question.answers.length) send("better", place, `Saved: ${place + 1} is better`);
}

function undo() {
  if (page.state.last) proceed("/undo", { choice: page.state.last }, "Undone.");
  else say("There is nothing to undo.");
}

async function differ() {
  const { item, round } = page.state.question;
  const marked = page.marked ? null : await ask("/differences", { person: page.person, item, round });
  if (page.state.question?.item === item) {
    page.marked = marked;
    fill();
  }
}

function strong(by) {
  page.strength = page.strength === by ? null : by;
  fill();
}

function plain() {
  Object.assign(page, { raw: !page.raw, marked: null });
  fill();
}

function open(box, text, start) {
  text.value ||= page.dropped[text.id] || start;
  $("editor").hidden = box !== "editor";
  $("noter").hidden = box !== "noter";
  fill();
  text.focus();
  $(box).scrollIntoView({ block: "nearest" });
}

function close(box, text, keep) {
  if (!keep && text.value.trim()) {
    // Escape is pressed by mistake, too.
    page.dropped[text.id] = text.value;
    text.value = "";
    say(`Discarded. ${box === "editor" ? "e" : "n"} brings it back.`);
  }
  $(box).hidden = true;
  text.blur();
  fill();
}

async function rename() {
  $("name").value = page.person;
  do await closed($("naming"), $("name")); while (!$("name").value.trim());
  begin($("name").value.trim());
}

function begin(person) {
  page.person = $("who").textContent = person;
  localStorage.setItem("person", person);
  return proceed("/question", {});
}

const both = () => (page.state.question.answers.length > 2 ? "all" : "both");
const ABOUT_QUESTION = {
  ...Object.fromEntries([0, 1, 2, 3].map((place) => [place + 1, () => choose(place)])),
  "=": () => send("tie", null, "Saved: a tie"),
  0: () => send("both_bad", null, `Saved: ${both()} bad`),
  s: () => send("skip", null, "Skipped"),
  l: () => strong(1), c: () => strong(2), m: () => strong(3),
  e: () => open("editor", $("edited"), page.state.question.answers[0].text),
  n: () => open("noter", $("comment"), ""),
  d: differ, r: plain,
};
const ALWAYS = { u: undo, p: async () => showPeople(await ask("/people")), "?": () => $("help").showModal() };

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
    $("edited").value = page.state.question.answers[button.dataset.start]?.text ?? "";
    $("edited").focus();
  }
});

for (const [box, text] of [["editor", "edited"], ["noter", "comment"]]) {
  const [drop, keep] = $(box).querySelectorAll("[data-keep]");
  drop.onclick = () => close(box, $(text), false);
  keep.onclick = () => close(box, $(text), true);
  $(text).addEventListener("keydown", (event) => {
    const keeps = event.key === "Enter" && (event.ctrlKey || event.metaKey);
    if (event.key !== "Escape" && !keeps) return;
    event.preventDefault();
    close(box, $(text), keeps);
  });
}
$("who").onclick = rename;

// What has been typed is saved with a choice, so a browser asks before it loses that.
addEventListener("beforeunload", (event) => {
  if (page.state?.question && typed().length) event.preventDefault();
});

const settings = await ask("/settings"), known = localStorage.getItem("person");
page.person = settings.person;
await (known ? begin(known) : rename());
