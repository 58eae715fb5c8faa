// Draws the conversation. All text of people and models is set as text; HTML comes from the server alone, which has
// cleaned it.

import { answerOtherwise, draw, rate, sayOtherwise, shown, state } from "/chat.js";
import { at, make } from "/common.js";

function button(label, title, act, className = "quiet") {
  const made = make("button", className, label);
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
  const nodes = state.turns.map((turn) => turn.node ?? makeTurn(turn));
  [...at("turns").children].filter((node) => !nodes.includes(node)).forEach((node) => node.remove());
  at("turns").append(...nodes.filter((node) => !node.isConnected));
  at("empty").hidden = state.turns.length > 0;
  at("heads").hidden = state.turns.length === 0;
  state.turns.forEach(drawParts);
  drawButtons();
  scrollDown(true);
}

export function drawAnswer(turn, model) {
  drawPart(turn, model + 1);
  drawButtons();
  scrollDown();
}

function drawTurn(turn) {
  drawParts(turn);
  drawButtons();
  scrollDown();
}

function drawParts(turn) {
  turn.parts.forEach((_, place) => drawPart(turn, place));
}

// A turn has a part for the message and one for each answer. Where somebody types, it stays until that is saved or
// cancelled, whatever arrives in the meantime.
function drawPart(turn, place) {
  const old = turn.parts[place];
  if (!old.isConnected || old.querySelector(".editing")) return;
  turn.parts[place] = makePart(turn, place);
  old.replaceWith(turn.parts[place]);
}

// Adds what is new, so that a selection in the text stays.
export function grow(turn, model, version) {
  const body = turn.parts[model + 1].querySelector(".body");
  if (body && version === shown(turn, model)) body.append(version.text.slice(body.textContent.length));
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
  turn.parts = ["", ...state.models].map((_, place) => makePart(turn, place));
  turn.node = make("section", "turn", turn.parts[0], make("div", "answers", ...turn.parts.slice(1)));
  return turn.node;
}

function makePart(turn, place) {
  return place ? makeAnswer(turn, place - 1, state.models[place - 1]) : makeUser(turn);
}

function makeUser(turn) {
  const user = make("div", "user");
  const change = () => edit(user, turn.said, (text) => sayOtherwise(turn, text), () => drawPart(turn, 0));
  user.append(button("✎", "Edit this message", change, "quiet idle"), make("div", "said", turn.said));
  return user;
}

function makeAnswer(turn, model, name) {
  const node = make("article", "answer");
  const answer = turn.answers[model];
  const version = answer.versions[answer.at];
  node.append(make("div", "name", name));
  if (!version) return node;
  const body = make("div", "body text");
  if (version.html === null) {
    body.classList.add("plain");
    body.classList.toggle("growing", version.growing);
    body.textContent = version.text;
  } else body.innerHTML = version.html;
  node.append(body);
  if (version.error) node.append(make("p", "error", version.error));
  if (!version.growing) node.append(makeFoot(turn, model, version, node));
  return node;
}

function makeFoot(turn, model, version, node) {
  const foot = make("div", "foot");
  const answer = turn.answers[model];
  const facts = make("span", "facts");
  if (version.score !== null) facts.append(make("span", "score", `score ${version.score.toFixed(2)}`), " ");
  const why = { length: "cut off at the length limit", stopped: "stopped" }[version.end] ?? (version.edited ? "edited" : "");
  facts.append([version.tokens ? `${version.tokens} tokens` : "", why].filter(Boolean).join(", "));
  foot.append(facts);
  // What follows an answer was said about the version that is shown, so only the last turn has others.
  const last = turn === state.turns.at(-1);
  if (last && answer.versions.length > 1) {
    const step = (by) => () => {
      answer.at = (answer.at + by + answer.versions.length) % answer.versions.length;
      drawAnswer(turn, model);
    };
    foot.append(
      button("‹", "Earlier version", step(-1), "quiet idle"),
      make("span", "", `${answer.at + 1}/${answer.versions.length}`),
      button("›", "Later version", step(1), "quiet idle"),
    );
  }
  const change = () =>
    edit(node, version.text, (text) => answerOtherwise(turn, model, text), () => drawAnswer(turn, model));
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
  if (last) foot.append(button("↻", "Answer again", () => draw(turn, model), "quiet idle"));
  foot.append(button("✎", "Edit this answer", change, "quiet idle"));
  if (version.text) {
    for (const [title, up] of [["Good answer", true], ["Bad answer", false]]) {
      const thumb = button("", title, () => rate(turn, model, version, up), `quiet ${up ? "up" : "down"}`);
      thumb.append(thumbIcon());
      thumb.setAttribute("aria-pressed", String(version.thumb === up));
      foot.append(thumb);
    }
  }
  return foot;
}

function edit(place, before, save, cancel) {
  const form = make("div", "editing");
  const field = make("textarea");
  field.value = before;
  field.rows = Math.min(12, before.split("\n").length + 1);
  field.setAttribute("aria-label", "New text");
  const buttons = make("div");
  const text = () => field.value.trim();
  const end = (act) => {
    form.remove();
    act();
  };
  const done = () => text() && !state.running.length && end(() => save(text()));
  buttons.append(button("Cancel", "Cancel", () => end(cancel), ""), button("Save", "Save", done, "main idle"));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      done();
    } else if (event.key === "Escape") {
      // Elsewhere on the page, this key stops the answers.
      event.stopPropagation();
      end(cancel);
    }
  });
  form.append(field, buttons);
  place.replaceChildren(form);
  field.focus();
}
