// How the page talks to its server.

export const at = (id) => document.getElementById(id);

// The browser's own words, such as "Failed to fetch", would not say what to do.
const gone = (path) => (error) => {
  if (error.name === "AbortError") throw error;
  const next = path === "/answer" ? "press ↻" : "try again";
  throw new Error(`The server does not answer. Start it again, then ${next}.`);
};

export async function post(path, content, signal) {
  const reply = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content), signal,
  }).catch(gone(path));
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

export function login() {
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

// Reads an answer line by line as it arrives.
export async function readLines(reply, take) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(gone("/answer"));
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.filter(Boolean).forEach((line) => take(JSON.parse(line)));
  }
}
