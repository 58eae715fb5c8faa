// The chat page. All text of people and models is set as text; HTML comes from the server alone, which has cleaned it.

const at = (id) => document.getElementById(id);
const numbers = ["temperature", "top_p", "max_new_tokens"];
let models = [];
// A turn is what the user said and, for each model, the versions of its answer, of which one is shown.
let turns = [];
let running = [];

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function button(label, title, act, className = "quiet") {
  const made = element("button", className, label);
  made.type = "button";
  made.title = title;
  made.setAttribute("aria-label", title);
  made.addEventListener("click", act);
  return made;
}

async function post(path, content, signal) {
  const reply = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content), signal,
  });
  if (reply.status === 401 && path !== "/login") {
    await login();
    return post(path, content, signal);
  }
  if (!reply.ok) {
    const { detail } = await reply.json().catch(() => ({ detail: reply.statusText }));
    throw new Error(typeof detail === "string" ? detail : detail.map((one) => `${one.loc.at(-1)}: ${one.msg}`).join("; "));
  }
  return reply;
}

function login() {
  return new Promise((done) => {
    const dialog = at("login");
    dialog.showModal();
    dialog.oncancel = (event) => event.preventDefault();
    dialog.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        await post("/login", { password: at("password").value });
        dialog.close();
        done();
      } catch (error) {
        at("refused").textContent = error.message;
      }
    };
  });
}

// What a model has read before its answer to a turn: each model knows its own answers alone.
function before(turn, model) {
  const system = at("system").value.trim();
  const said = system ? [{ role: "system", content: system }] : [];
  for (const one of turns) {
    said.push({ role: "user", content: one.said });
    if (one === turn) break;
    said.push({ role: "assistant", content: shown(one, model).text });
  }
  return said;
}

const shown = (turn, model) => turn.answers[model].versions[turn.answers[model].at];

async function ask(turn, model) {
  const version = { text: "", html: null, score: null, end: null, thumb: null, error: "", growing: true, tokens: 0 };
  version.messages = before(turn, model);
  const answer = turn.answers[model];
  answer.versions.push(version);
  answer.at = answer.versions.length - 1;
  const stop = new AbortController();
  running.push(stop);
  drawTurn(turn);
  try {
    const settings = Object.fromEntries(numbers.map((name) => [name, Number(at(name).value)]));
    const reply = await post("/answer", { model, messages: version.messages, ...settings }, stop.signal);
    await readLines(reply, (line) => {
      if (line.error) throw new Error(line.error);
      version.text += line.add;
      version.tokens = line.tokens;
      version.end = line.end;
      grow(turn, model, version);
    });
  } catch (error) {
    if (error.name === "AbortError") version.end = "stopped";
    else version.error = error.message;
  }
  version.growing = false;
  running = running.filter((one) => one !== stop);
  if (!version.text && version.end !== "stop" && answer.versions.length > 1) {
    // Nothing was drawn, so the earlier answer stays.
    answer.versions.pop();
    answer.at = answer.versions.length - 1;
    if (version.error) at("saved").textContent = version.error;
  } else if (version.text || version.end) await finish(version);
  drawTurn(turn);
  drawButtons();
}

// Asks the server for the formatted answer and its score.
async function finish(version) {
  try {
    const messages = [...version.messages, { role: "assistant", content: version.text }];
    const reply = await post("/shown", { messages, finished: version.end === "stop" });
    Object.assign(version, await reply.json());
  } catch (error) {
    version.error = error.message;
  }
}

async function readLines(reply, take) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.filter(Boolean).forEach((line) => take(JSON.parse(line)));
  }
}

async function askAll(turn) {
  const asked = models.map((_, model) => ask(turn, model));
  drawButtons();
  await Promise.all(asked);
}

function say(text) {
  const turn = { said: text, answers: models.map(() => ({ versions: [], at: 0 })) };
  turns.push(turn);
  drawAll();
  return askAll(turn);
}

// Later turns answer to what was said before, so they go.
function sayOtherwise(turn, text) {
  turns = turns.slice(0, turns.indexOf(turn));
  return say(text);
}

async function answerOtherwise(turn, model, text) {
  const answer = turn.answers[model];
  const version = { text, html: null, score: null, end: "stop", edited: true, thumb: null, error: "", growing: false };
  version.messages = before(turn, model);
  answer.versions.push(version);
  answer.at = answer.versions.length - 1;
  turns = turns.slice(0, turns.indexOf(turn) + 1);
  await finish(version);
  drawAll();
}

async function rate(turn, version, up) {
  const thumb = version.thumb === up ? null : up;
  try {
    const reply = await post("/thumb", { messages: version.messages, answer: version.text, up: thumb });
    const { preferences, ratings } = await reply.json();
    version.thumb = thumb;
    at("saved").textContent = `Saved: ${ratings} rated answers, ${preferences} preferences`;
  } catch (error) {
    at("saved").textContent = error.message;
  }
  drawTurn(turn);
}

function drawAll() {
  at("turns").replaceChildren(...turns.map((turn) => (turn.node = makeTurn(turn))));
  at("empty").hidden = turns.length > 0;
  at("heads").hidden = turns.length === 0;
  drawButtons();
  scrollDown(true);
}

function drawTurn(turn) {
  if (!turn.node?.isConnected) return;
  const made = makeTurn(turn);
  turn.node.replaceWith(made);
  turn.node = made;
  drawButtons();
  scrollDown();
}

function grow(turn, model, version) {
  const body = turn.node?.querySelectorAll(".answer")[model]?.querySelector(".body");
  if (body && version === shown(turn, model)) body.textContent = version.text;
  scrollDown();
}

function drawButtons() {
  const busy = running.length > 0;
  at("stop").hidden = !busy;
  at("send").hidden = busy;
  document.querySelectorAll(".idle").forEach((one) => (one.disabled = busy));
}

// Follows the answer unless the reader has scrolled up.
function scrollDown(always = false) {
  const main = document.querySelector("main");
  if (always || main.scrollHeight - main.scrollTop - main.clientHeight < 160) main.scrollTop = main.scrollHeight;
}

function makeTurn(turn) {
  const node = element("section", "turn");
  const user = element("div", "user");
  const change = () => edit(user, turn.said, (text) => sayOtherwise(turn, text), () => drawTurn(turn));
  user.append(button("✎", "Edit this message", change, "quiet idle"), element("div", "said", turn.said));
  const answers = element("div", "answers");
  answers.append(...models.map((name, model) => makeAnswer(turn, model, name)));
  node.append(user, answers);
  return node;
}

function makeAnswer(turn, model, name) {
  const node = element("article", "answer");
  const answer = turn.answers[model];
  const version = answer.versions[answer.at];
  node.append(element("div", "name", name));
  if (!version) return node;
  const body = element("div", "body");
  if (version.html === null) {
    body.classList.add("plain");
    body.classList.toggle("growing", version.growing);
    body.textContent = version.text;
  } else body.innerHTML = version.html;
  node.append(body);
  if (version.error) node.append(element("p", "error", version.error));
  if (!version.growing) node.append(makeFoot(turn, model, version, node));
  return node;
}

function makeFoot(turn, model, version, node) {
  const foot = element("div", "foot");
  const answer = turn.answers[model];
  const facts = element("span", "facts");
  if (version.score !== null) facts.append(element("span", "score", `score ${version.score.toFixed(2)}`), " ");
  const why = { length: "cut at the limit", stopped: "stopped" }[version.end] ?? (version.edited ? "edited" : "");
  facts.append([version.tokens ? `${version.tokens} tokens` : "", why].filter(Boolean).join(", "));
  foot.append(facts);
  // What follows an answer was said about the version that is shown, so only the last turn has others.
  const last = turn === turns.at(-1);
  if (last && answer.versions.length > 1) {
    const step = (by) => () => {
      answer.at = (answer.at + by + answer.versions.length) % answer.versions.length;
      drawTurn(turn);
    };
    foot.append(
      button("‹", "Earlier version", step(-1), "quiet idle"),
      element("span", "", `${answer.at + 1}/${answer.versions.length}`),
      button("›", "Later version", step(1), "quiet idle"),
    );
  }
  const again = () => {
    ask(turn, model);
    drawButtons();
  };
  const change = () =>
    edit(node, version.text, (text) => answerOtherwise(turn, model, text), () => drawTurn(turn));
  if (last) foot.append(button("↻", "Answer again", again, "quiet idle"));
  foot.append(button("✎", "Edit this answer", change, "quiet idle"));
  if (version.text) {
    for (const [label, title, up] of [["👍", "Good answer", true], ["👎", "Bad answer", false]]) {
      const thumb = button(label, title, () => rate(turn, version, up), `quiet ${up ? "up" : "down"}`);
      thumb.setAttribute("aria-pressed", String(version.thumb === up));
      foot.append(thumb);
    }
  }
  return foot;
}

function edit(place, text, save, cancel) {
  const form = element("div", "editing");
  const field = element("textarea");
  field.value = text;
  field.rows = Math.min(12, text.split("\n").length + 1);
  field.setAttribute("aria-label", "New text");
  const buttons = element("div");
  const done = () => field.value.trim() && save(field.value.trim());
  buttons.append(button("Cancel", "Cancel", cancel, ""), button("Save", "Save", done, ""));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      done();
    } else if (event.key === "Escape") cancel();
  });
  form.append(field, buttons);
  place.replaceChildren(form);
  field.focus();
}

function stopAll() {
  running.forEach((one) => one.abort());
}

function fit() {
  const field = at("text");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text || running.length) return;
  at("text").value = "";
  fit();
  say(text);
});
at("text").addEventListener("input", fit);
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => event.key === "Escape" && stopAll());
at("stop").addEventListener("click", stopAll);
at("settings").querySelector("form").addEventListener("submit", (event) => event.preventDefault());
at("new").addEventListener("click", () => {
  stopAll();
  turns = [];
  drawAll();
  at("text").focus();
});

async function begin() {
  const reply = await fetch("/settings");
  if (reply.status === 401) {
    await login();
    return begin();
  }
  const settings = await reply.json();
  models = settings.models;
  document.documentElement.style.setProperty("--models", models.length);
  at("heads").replaceChildren(...models.map((name) => element("span", "", name)));
  at("system").value = settings.system;
  numbers.forEach((name) => (at(name).value = settings[name]));
  document.title = `Chat: ${models.join(" | ")}`;
  drawAll();
}

begin();
