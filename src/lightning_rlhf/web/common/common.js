// What the scripts of all pages begin with: they find and make elements, ask the server, and log in.

export const at = (id) => document.getElementById(id);

// Makes an element; text that is put into it stays text.
export function make(tag, className = "", ...inside) {
  const node = Object.assign(document.createElement(tag), { className });
  node.append(...inside);
  return node;
}

// Asks the server, by POST if there is a body, and lets the person log in where that is needed. What the server
// refuses is an error with its words and its status.
export async function ask(path, body, signal) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const reply = await fetch(path, { ...(body === undefined ? {} : post), signal }).catch(gone);
  if (reply.status === 401 && path !== "/login") {
    await loggedIn();
    return ask(path, body, signal);
  }
  if (reply.ok) return reply;
  const { detail } = await reply.json().catch(() => ({ detail: `${reply.status} ${reply.statusText}` }));
  throw Object.assign(new Error(detail), { status: reply.status });
}

// The browser's own words, such as "Failed to fetch", would not say what to do.
export function gone(error) {
  throw error.name === "AbortError" ? error : new Error("The server does not answer. Start it again, then try again.");
}

// Opens a dialog, waits until it is closed, and tells whether its button has closed it, and not the Escape key.
export async function given(dialog, field) {
  dialog.returnValue = "";
  dialog.showModal();
  field.focus();
  await new Promise((resume) => dialog.addEventListener("close", resume, { once: true }));
  return dialog.returnValue !== "";
}

// Requests that are refused at the same time wait for one password.
let entering = null;
const loggedIn = () => (entering ??= logIn().finally(() => { entering = null; }));

async function logIn() {
  for (;;) {
    if (!(await given(at("login"), at("password")))) continue;
    const password = at("password").value;
    at("password").value = "";
    try {
      await ask("/login", { password });
      at("refused").textContent = "";
      return;
    } catch (error) {
      at("refused").textContent = error.message;
    }
  }
}
