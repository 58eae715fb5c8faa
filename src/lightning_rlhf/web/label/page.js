"use strict";

const $ = (id) => document.getElementById(id);
const page = { person: "", state: null, strength: null, busy: false, raw: false, marked: null, since: 0, retry: 0 };
const WAIT = 1000, WAIT_WHEN_DONE = 3000;

// ---------------------------------------------------------------- talking to the server

// The server may be restarting. Each request can be repeated without harm, so the page asks until there is an answer.
async function ask(path, body) {
  for (;;) {
    let reply;
    try {
      reply = await fetch(path, body === undefined ? {} : {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      });
    } catch {
      say("The server does not answer. Nothing is lost: the page goes on when it does.", true);
      await new Promise((resume) => setTimeout(resume, WAIT));
      continue;
    }
    if (reply.ok) return reply.json();
    if (reply.status === 401 && path !== "/login") {
      await logIn();
      continue;
    }
    const { detail } = await reply.json().catch(() => ({ detail: reply.statusText }));
    throw new Error(typeof detail === "string" ? detail : detail.map((one) => one.msg).join("; "));
  }
}

async function logIn() {
  for (;;) {
    await closed($("login"), $("password"));
    const password = $("password").value;
    $("password").value = "";
    try {
      return await ask("/login", { password });
    } catch (error) {
      $("refused").textContent = error.message;
    }
  }
}

// Runs a request unless one is under way, and shows what the server says next.
async function proceed(path, body, words) {
  if (page.busy) return;
  page.busy = true;
  document.body.classList.add("busy");
  try {
    const state = await ask(path, { person: page.person, ...body });
    show(state);
    say(words || "");
  } catch (error) {
    say(error.message, true);
  } finally {
    page.busy = false;
    document.body.classList.remove("busy");
  }
}

// ---------------------------------------------------------------- showing a question

function show(state) {
  const again = page.state && page.state.question && state.question && !state.before
    && page.state.question.item === state.question.item && page.state.question.round === state.question.round;
  page.state = state;
  clearTimeout(page.retry);
  showProgress(state.progress);
  $("question").hidden = $("actions").hidden = !state.question;
  $("message").hidden = !!state.question;
  if (!state.question) return showMessage(state);
  if (again) return;
  page.strength = state.before ? state.before.strength : null;
  page.marked = null;
  page.since = performance.now();
  $("edited").value = state.before ? state.before.edited : "";
  $("comment").value = state.before ? state.before.comment : "";
  $("editor").hidden = $("noter").hidden = true;
  $("prompt").replaceChildren(...state.question.prompt.map(turn));
  $("answers").replaceChildren(...state.question.answers.map(card));
  $("answers").dataset.count = state.question.answers.length;
  $("verdicts").replaceChildren(...verdictButtons(state.question.answers.length));
  $("starts").replaceChildren(...startButtons(state.question.answers));
  fill();
  scrollTo(0, 0);
  $("prompt").scrollTop = $("prompt").scrollHeight;
}

function showMessage(state) {
  const [title, text] = {
    wait: ["One moment", state.message],
    failed: ["No more answers", state.message],
    done: ["That is all", state.progress.done
      ? "You have answered every question. The server can be stopped; it says how to train on the choices."
      : "There is nothing to ask you."],
  }[state.state];
  $("message").querySelector("h1").textContent = title;
  $("message").querySelector("p").textContent = text;
  $("message").className = state.state;
  const wait = state.state === "wait" ? WAIT : WAIT_WHEN_DONE;
  page.retry = setTimeout(() => proceed("/question", {}, $("status").textContent), wait);
}

function showProgress({ done, left, rate }) {
  const minutes = rate && Math.ceil(left / rate);
  $("bar").max = done + left || 1;
  $("bar").value = done;
  $("progress").textContent = [
    `${done} done`,
    left ? `about ${left} left` : "",
    rate ? `${rate.toFixed(1)} a minute` : "",
    minutes ? (minutes < 90 ? `${minutes} min to go` : `${(minutes / 60).toFixed(1)} h to go`) : "",
  ].filter(Boolean).join(" · ");
}

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function turn({ role }) {
  return make("div", { className: `turn ${role}` }, make("span", { className: "role", textContent: role }),
    make("div", { className: "text" }));
}

function card({ finished }, place) {
  const button = make("button", { className: "pick", onclick: () => choose(place) },
    make("kbd", { textContent: place + 1 }), make("span", { className: "how" }));
  const cut = finished ? [] : [make("span", { className: "quiet", textContent: "cut off at the length limit" })];
  return make("article", { className: "answer" }, make("div", { className: "row" }, button, ...cut),
    make("div", { className: "text" }));
}

function verdictButtons(count) {
  const button = (key, words, act) => make("button", { className: "verdict", onclick: act },
    make("kbd", { textContent: key }), words);
  return [
    ...Array.from({ length: count }, (_, place) => button(place + 1, "Better", () => choose(place))),
    button("=", "Tie", () => say_of("tie")),
    button("0", count > 2 ? "All bad" : "Both bad", () => say_of("both_bad")),
    button("s", "Skip", () => say_of("skip")),
    button("u", "Undo", undo),
  ];
}

function startButtons(answers) {
  const start = (words, text) => make("button", { onclick: () => {
    $("edited").value = text;
    $("edited").focus();
  } }, words);
  return ["Start from", ...answers.map(({ text }, place) => start(`${place + 1}`, text)), start("nothing", "")];
}

// Puts the texts into their places. The server has made HTML of Markdown, and has left nothing in it that acts.
function fill() {
  const { prompt, answers } = page.state.question;
  const put = (element, { html, text }, marked) => {
    element.classList.toggle("raw", page.raw || !!marked);
    if (marked) element.innerHTML = marked;
    else if (page.raw) element.textContent = text;
    else element.innerHTML = html;
  };
  document.querySelectorAll("#prompt .text").forEach((element, place) => put(element, prompt[place]));
  document.querySelectorAll("#answers .text").forEach((element, place) =>
    put(element, answers[place], page.marked && page.marked[place]));
  press("d", !!page.marked);
  press("r", page.raw);
  document.querySelectorAll("[data-strength]").forEach((button) =>
    button.setAttribute("aria-pressed", Number(button.dataset.strength) === page.strength));
  document.querySelectorAll(".how").forEach((element) => {
    element.textContent = `is ${["", "slightly ", "clearly ", "much "][page.strength || 0]}better`;
  });
  const kept = [$("edited").value.trim() && "an edited answer", $("comment").value.trim() && "a comment"].filter(Boolean);
  $("kept").hidden = !kept.length || !$("editor").hidden || !$("noter").hidden;
  $("kept").textContent = `Your choice also saves ${kept.join(" and ")}.`;
}

function press(key, on) {
  document.querySelector(`[data-key="${key}"]`).setAttribute("aria-pressed", on);
}

function say(words, wrong = false) {
  $("status").textContent = words;
  $("status").classList.toggle("wrong", wrong);
}

// ---------------------------------------------------------------- what a person does

function choose(place) {
  if (place < page.state.question.answers.length) send("better", place, `Saved: ${place + 1} is better`);
}

function say_of(verdict) {
  const all = page.state.question.answers.length > 2 ? "all" : "both";
  send(verdict, null, { tie: "Saved: a tie", both_bad: `Saved: ${all} bad`, skip: "Skipped" }[verdict]);
}

function send(verdict, pick, words) {
  const { item, round } = page.state.question;
  proceed("/answer", {
    item, round, verdict, pick,
    strength: pick === null ? null : page.strength,
    edited: $("edited").value, comment: $("comment").value,
    seconds: (performance.now() - page.since) / 1000,
  }, `${words}. u undoes it.`);
}

function undo() {
  if (page.state.last) proceed("/undo", { choice: page.state.last }, "Undone.");
  else say("There is nothing to undo.");
}

async function differ() {
  const { item, round } = page.state.question;
  page.marked = page.marked ? null : await ask("/differences", { person: page.person, item, round });
  fill();
}

function open(box, text) {
  $("editor").hidden = box !== "editor";
  $("noter").hidden = box !== "noter";
  if (box === "editor" && !text.value) text.value = page.state.question.answers[0].text;
  text.dataset.before = text.value;
  $("kept").hidden = true;
  $(box).scrollIntoView({ block: "nearest" });
  text.focus();
}

function close(box, text, keep) {
  if (!keep) text.value = "";
  $(box).hidden = true;
  text.blur();
  fill();
}

async function closed(dialog, first) {
  dialog.showModal();
  first.focus();
  await new Promise((resume) => dialog.addEventListener("close", resume, { once: true }));
}

async function rename(suggested) {
  $("name").value = suggested;
  do await closed($("naming"), $("name")); while (!$("name").value.trim());
  page.person = $("name").value.trim();
  localStorage.setItem("person", page.person);
  $("who").textContent = page.person;
  await proceed("/question", {});
}

async function people() {
  const percent = (share) => (share === null ? "–" : `${Math.round(100 * share)} %`);
  const known = await ask("/people");
  const table = (id, head, rows) => $(id).replaceChildren(...[head, ...rows].map((cells, number) =>
    make("tr", {}, ...cells.map((cell) => make(number ? "td" : "th", { textContent: cell })))));
  table("habits", ["Name", "Choices", "Same answer when asked again", "Chose the first"], known.people.map((one) => [
    one.person, one.choices, one.repeats ? `${one.kept} of ${one.repeats}` : "–", percent(one.first),
  ]));
  table("agreements", known.agreements.length ? ["Both of", "Same items", "Agreed", "κ"] : [],
    known.agreements.map((one) => [one.people.join(" and "), one.shared, percent(one.agreed / one.shared),
      one.kappa === null ? "–" : one.kappa.toFixed(2)]));
  $("people").showModal();
}

// ---------------------------------------------------------------- keys

const KEYS = {
  "=": () => say_of("tie"), "0": () => say_of("both_bad"), s: () => say_of("skip"), u: undo,
  e: () => open("editor", $("edited")), n: () => open("noter", $("comment")), d: differ,
  r: () => { page.raw = !page.raw; page.marked = null; fill(); },
  l: () => strong(1), c: () => strong(2), m: () => strong(3),
};
const ANYWHERE = { "?": () => $("help").showModal(), p: people };
for (const place of [0, 1, 2, 3]) KEYS[place + 1] = () => choose(place);

function strong(by) {
  page.strength = page.strength === by ? null : by;
  fill();
}

// Keyboards such as the French one have their digits behind Shift.
function meant({ key, code, shiftKey }) {
  if (key in KEYS || key in ANYWHERE) return key;
  return !shiftKey && /^(Digit|Numpad)[0-4]$/.test(code) ? code.at(-1) : key.toLowerCase();
}

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches("textarea, input")) return;
  const key = meant(event);
  const act = ANYWHERE[key] || (page.state && page.state.question && !page.busy ? KEYS[key] : undefined)
    || (key === "u" && page.state && !page.busy ? undo : undefined);
  if (act) {
    event.preventDefault();
    act();
  }
});

for (const [box, text, keep, drop] of [["editor", "edited", "keep-edit", "drop-edit"],
  ["noter", "comment", "keep-note", "drop-note"]]) {
  $(keep).onclick = () => close(box, $(text), true);
  $(drop).onclick = () => close(box, $(text), false);
  $(text).addEventListener("keydown", (event) => {
    if (event.key === "Escape") close(box, $(text), false);
    else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) close(box, $(text), true);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}
document.querySelectorAll("[data-key]").forEach((button) => { button.onclick = () => KEYS[button.dataset.key](); });
$("show-help").onclick = ANYWHERE["?"];
$("show-people").onclick = people;
$("who").onclick = () => rename(page.person);

(async () => {
  const settings = await ask("/settings");
  const known = localStorage.getItem("person");
  page.person = known || "";
  $("who").textContent = page.person;
  await (known ? proceed("/question", {}) : rename(settings.person));
})();
