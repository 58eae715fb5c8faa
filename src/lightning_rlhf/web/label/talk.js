// Asks the server. It may be down for a while: every request can be repeated without harm, so none is lost.

import { $, say } from "/show.js";

const WAIT = 1000; // milliseconds

export async function ask(path, body) {
  for (;;) {
    const reply = await sent(path, body);
    if (reply === null) {
      say("The server does not answer. Nothing is lost: the page goes on when it does.", true);
      await new Promise((resume) => setTimeout(resume, WAIT));
    } else if (reply.ok) {
      return reply.json();
    } else if (reply.status === 401 && path !== "/login") {
      await logIn();
    } else {
      const { detail } = await reply.json().catch(() => ({ detail: `${reply.status} ${reply.statusText}` }));
      throw Object.assign(new Error(detail), { status: reply.status });
    }
  }
}

// Opens a dialog, and waits until it is closed.
export async function closed(dialog, first) {
  dialog.showModal();
  first.focus();
  await new Promise((resume) => dialog.addEventListener("close", resume, { once: true }));
}

async function sent(path, body) {
  const headers = { "Content-Type": "application/json" };
  try {
    return await fetch(path, body === undefined ? {} : { method: "POST", headers, body: JSON.stringify(body) });
  } catch {
    return null;
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
