// What is said: turns, the versions of their answers, and the requests that draw them.

import { ask, at, gone } from "/common.js";
import { drawAll, drawAnswer, drawButtons, grow } from "/show.js";

export const numbers = ["temperature", "top_p", "max_new_tokens"];

// A turn is what the user said and, for each model, the versions of its answer, of which one is shown. If a turn is
// shared, all models go on from the answer of one of them.
export const state = { models: [], turns: [], running: [] };

// What a model has read before its answer to a turn: each model knows its own answers, or shared ones. A turn that
// it could not answer, or that was stopped before its first token, is not part of it.
function before(turn, model) {
  const system = at("system").value.trim();
  const said = system ? [{ role: "system", content: system }] : [];
  for (const one of state.turns) {
    if (one === turn) return [...said, { role: "user", content: one.said }];
    const { text, end } = shown(one, one.shared ?? model);
    if (text || end === "stop") said.push({ role: "user", content: one.said }, { role: "assistant", content: text });
  }
}

export const shown = (turn, model) => turn.answers[model].versions[turn.answers[model].at];

export async function draw(turn, model) {
  const version = { text: "", html: null, score: null, end: null, thumb: null, error: "", growing: true, tokens: 0 };
  version.messages = before(turn, model);
  const answer = turn.answers[model];
  answer.versions.push(version);
  answer.at = answer.versions.length - 1;
  const stop = new AbortController();
  state.running.push(stop);
  drawAnswer(turn, model);
  drawButtons();
  try {
    const settings = Object.fromEntries(numbers.map((name) => [name, Number(at(name).value)]));
    const reply = await ask("/answer", { model, messages: version.messages, ...settings }, stop.signal);
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
  state.running = state.running.filter((one) => one !== stop);
  if (!version.text && version.end !== "stop" && answer.versions.length > 1) {
    // Nothing was drawn, so the earlier answer stays.
    answer.versions.pop();
    answer.at = answer.versions.length - 1;
    if (version.error) at("saved").textContent = version.error;
  } else if (version.text || version.end) await finish(version);
  drawAnswer(turn, model);
  drawButtons();
}

// Reads an answer line by line as it arrives.
async function readLines(reply, take) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(gone);
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.filter(Boolean).forEach((line) => take(JSON.parse(line)));
  }
}

// Asks the server for the formatted answer and its score.
async function finish(version) {
  try {
    const messages = [...version.messages, { role: "assistant", content: version.text }];
    const reply = await ask("/shown", { messages, finished: version.end === "stop" });
    Object.assign(version, await reply.json());
  } catch (error) {
    version.error = error.message;
  }
}

export async function say(text) {
  const turn = { said: text, shared: null, answers: state.models.map(() => ({ versions: [], at: 0 })) };
  state.turns.push(turn);
  drawAll();
  await Promise.all(state.models.map((_, model) => draw(turn, model)));
}

// Later turns answer to what was said before, so they go.
export function sayOtherwise(turn, text) {
  state.turns = state.turns.slice(0, state.turns.indexOf(turn));
  return say(text);
}

export async function answerOtherwise(turn, model, text) {
  const answer = turn.answers[model];
  const version = { text, html: null, score: null, end: "stop", edited: true, thumb: null, error: "", growing: false };
  version.messages = before(turn, model);
  answer.versions.push(version);
  answer.at = answer.versions.length - 1;
  state.turns = state.turns.slice(0, state.turns.indexOf(turn) + 1);
  drawAll();
  await finish(version);
  drawAnswer(turn, model);
}

const counted = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;

export async function rate(turn, model, version, up) {
  const thumb = version.thumb === up ? null : up;
  try {
    const reply = await ask("/thumb", { messages: version.messages, answer: version.text, up: thumb });
    const { preferences, ratings } = await reply.json();
    version.thumb = thumb;
    at("saved").textContent = `Saved: ${counted(ratings, "rating")}, ${counted(preferences, "preference")}`;
  } catch (error) {
    at("saved").textContent = error.message;
  }
  drawAnswer(turn, model);
}
