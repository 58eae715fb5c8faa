// Asks the server. It may be down for a while: every request can be repeated without harm, so none is lost.

import { ask as askOnce } from "/common.js";
import { say } from "/show.js";

const WAIT = 1000; // milliseconds

export async function ask(path, body) {
  for (;;) {
    try {
      return await (await askOnce(path, body)).json();
    } catch (error) {
      if (error.status) throw error;
      say("The server does not answer. Nothing is lost: the page goes on when it does.", true);
      await new Promise((resume) => setTimeout(resume, WAIT));
    }
  }
}
