// Draws the conversation. All text of people and models is set as text; HTML comes from the server alone, which has
// cleaned it.

import { answerOtherwise, ask, rate, sayOtherwise, shown, state } from "/chat.js";
import { at } from "/talk.js";

export function element(tag, className = "", text = "") {
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

// A thumb that points up. Few fonts have one.
function thumbIcon() {
  const [icon, path] = ["svg", "path"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
  icon.setAttribute("viewBox", "0 0 20 20");
  icon.setAttribute("aria-hidden", "true");
  path.setAttribute("d", "M2 9h3.5v9H2zM5.5 9.5l4-7.5c1.6 0 2.4 1.2 2.1 2.7L11 8h5.4c1.2 0 2 1 1.8 2.1l-1.2 6.2c-.2 1-1 1.7-2 1.7H5.5z");
  icon.append(path);
  return icon;
}

export function drawAll() {
  at("turns").replaceChildren(...state.turns.map((turn) => (turn.node = makeTurn(turn))));
  at("empty").hidden = state.turns.length > 0;
  at("heads").hidden = state.turns.length === 0;
  drawButtons();
  scrollDown(true);
}

export function drawTurn(turn) {
  if (!turn.node?.isConnected) return;
  const made = makeTurn(turn);
  turn.node.replaceWith(made);
  turn.node = made;
  drawButtons();
  scrollDown();
}

export function grow(turn, model, version) {
  const body = turn.node?.querySelectorAll(".answer")[model]?.querySelector(".body");
  if (body && version === shown(turn, model)) body.textContent = version.text;
  scrollDown();
}

export function drawButtons() {
  const busy = state.running.length > 0;
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
  answers.append(...state.models.map((name, model) => makeAnswer(turn, model, name)));
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
  const why = { length: "cut off at the length limit", stopped: "stopped" }[version.end] ?? (version.edited ? "edited" : "");
  facts.append([version.tokens ? `${version.tokens} tokens` : "", why].filter(Boolean).join(", "));
  foot.append(facts);
  // What follows an answer was said about the version that is shown, so only the last turn has others.
  const last = turn === state.turns.at(-1);
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
  if (state.models.length > 1 && version.text && (last || turn.shared === model)) {
    const share = () => {
      turn.shared = turn.shared === model ? null : model;
      drawTurn(turn);
    };
    const shared = button("⇉", "Both go on from this answer", share, "quiet shared");
    shared.setAttribute("aria-pressed", String(turn.shared === model));
    // What followed was said about this answer.
    if (last) shared.classList.add("idle");
    else shared.disabled = true;
    foot.append(shared);
  }
  if (last) foot.append(button("↻", "Answer again", again, "quiet idle"));
  foot.append(button("✎", "Edit this answer", change, "quiet idle"));
  if (version.text) {
    for (const [title, up] of [["Good answer", true], ["Bad answer", false]]) {
      const thumb = button("", title, () => rate(turn, version, up), `quiet ${up ? "up" : "down"}`);
      thumb.append(thumbIcon());
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
  buttons.append(button("Cancel", "Cancel", cancel, ""), button("Save", "Save", done, "save"));
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
