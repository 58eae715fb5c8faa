// Starts the page, and listens to its fields and buttons.

import { numbers, say, state } from "/chat.js";
import { ask, at, make } from "/common.js";
import { drawAll } from "/show.js";

function stopAll() {
  state.running.forEach((one) => one.abort());
}

function fit() {
  const field = at("text");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text || state.running.length) return;
  at("text").value = "";
  fit();
  ready.then(() => say(text), () => (at("text").value ||= text));
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
at("settings").addEventListener("submit", (event) => event.preventDefault());
at("more").addEventListener("click", () => {
  at("settings").hidden = !at("settings").hidden;
  at("more").setAttribute("aria-expanded", String(!at("settings").hidden));
});
at("new").addEventListener("click", () => {
  stopAll();
  state.turns = [];
  drawAll();
  at("text").focus();
});

async function begin() {
  const settings = await (await ask("/settings")).json();
  state.models = settings.models;
  document.documentElement.style.setProperty("--models", state.models.length);
  at("heads").replaceChildren(...state.models.map((name) => make("span", "", name)));
  // What somebody has already typed stays.
  at("system").value ||= settings.system;
  numbers.forEach((name) => (at(name).value ||= settings[name]));
  at("who").textContent = `You talk to ${state.models.join(" and ")}.`;
  document.title = `Chat: ${state.models.join(" | ")}`;
  drawAll();
}

const ready = begin();
ready.catch((error) => (at("saved").textContent = error.message));
