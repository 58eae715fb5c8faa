// The sample browser. Its state is in the address after #samples:.
(() => {
  const found = chooser("samples");
  if (!found) return;
  const { data: { stages, prompts, samples }, section, form, status, list, more } = found;
  const PAGE = 12;
  const NAMES = { evaluation: "held-out answer", rollout: "rollout" };
  const has = search(samples.map(({ prompt, response }) => [...prompts[prompt].map(([, text]) => text), response]));
  const thread = (sample) => (sample.row === null ? null : `${sample.prompt}/${sample.row}`);
  const threads = new Map();
  samples.forEach((sample, i) => {
    if (!threads.has(thread(sample))) threads.set(thread(sample), []);
    threads.get(thread(sample)).push(i);
  });
  const kept = inAddress("samples");
  let state = {};
  const length = () => Number(state.shown ?? PAGE);

  const value = (i, name) => samples[i].measures[name]?.[0] ?? null;
  const inRange = (i, name, low, high) => {
    if (low === undefined && high === undefined) return true;
    const found = value(i, name);
    return found !== null && !(found < Number(low ?? -Infinity)) && !(found > Number(high ?? Infinity));
  };
  const select = () => {
    if (state.of !== undefined) {
      return threads.get(state.of).toSorted((a, b) => samples[a].stage - samples[b].stage || samples[a].iteration - samples[b].iteration);
    }
    const searched = has(state.q ?? "");
    const found = [...samples.keys()].filter((i) =>
      searched(i)
      && ["stage", "phase", "iteration"].every((key) => state[key] === undefined || String(samples[i][key]) === state[key])
      && Object.keys(LABELS).every((name) => inRange(i, name, state[`${name}_min`], state[`${name}_max`])));
    const [, name, sign] = /^(\w+)([+-])$/.exec(state.sort ?? "") ?? [];
    const newest = (a, b) => samples[b].stage - samples[a].stage || samples[b].iteration - samples[a].iteration;
    if (!name) return found.sort(newest);
    const place = (i) => (value(i, name) === null ? Infinity : (sign === "+" ? 1 : -1) * value(i, name));
    // The place of samples without a value is infinite, and the difference of two of them is no number.
    return found.sort((a, b) => place(a) - place(b) || newest(a, b));
  };

  // The words of a text, of which those that an earlier text does not have are marked, and lost words are struck.
  const changes = (before, after) => {
    const [old, now] = [before, after].map((text) => text.split(/(\s+)/));
    if (old.length * now.length > 1e6) return [after];
    const common = Array.from({ length: old.length + 1 }, () => new Uint16Array(now.length + 1));
    for (let i = old.length - 1; i >= 0; i--)
      for (let j = now.length - 1; j >= 0; j--)
        common[i][j] = old[i] === now[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    const parts = [];
    const add = (tag, word) => {
      const last = parts.at(-1);
      if (last?.tag === tag) last.text += word;
      else parts.push({ tag, text: word });
    };
    for (let i = 0, j = 0; i < old.length || j < now.length;) {
      if (i < old.length && j < now.length && old[i] === now[j]) add("", now[j++], i++);
      else if (j === now.length || (i < old.length && common[i + 1][j] >= common[i][j + 1])) add("del", old[i++]);
      else add("ins", now[j++]);
    }
    return parts.map(({ tag, text }) => (tag ? make(tag, "", text) : text));
  };

  const card = (i, before) => {
    const sample = samples[i], { title, unit } = stages[sample.stage];
    const where = [stages.length > 1 ? title : "", `${unit} ${sample.iteration}`, NAMES[sample.phase] ?? sample.phase];
    const text = before === undefined ? shownText(sample.response)
      : shownText(sample.response, ...changes(samples[before].response, sample.response));
    const answer = make("div", sample.phase === "rollout" ? "answer" : "answer new",
      header(where.filter(Boolean).join(" · "), sample), text);
    const others = threads.get(thread(sample)) ?? [];
    if (state.of === undefined && sample.row !== null && others.length > 1) {
      const button = make("button", "quiet", `How this answer changed: ${others.length} answers`);
      button.addEventListener("click", () => go({ of: thread(sample) }, true));
      answer.append(button);
    }
    return answer;
  };
  const show = () => {
    const found = select(), history = state.of !== undefined;
    const shown = history ? found : found.slice(0, length());
    status.textContent = history ? `${found.length} answers to one prompt; changed words are marked`
      : `${found.length} of ${samples.length} samples`;
    list.replaceChildren(...shown.map((i, at) => {
      const item = make("div", "pair");
      // A prompt is not repeated for each of its answers.
      if (samples[shown[at - 1]]?.prompt !== samples[i].prompt) item.append(conversation(prompts[samples[i].prompt]));
      item.append(card(i, history && at > 0 ? shown[at - 1] : undefined));
      return item;
    }));
    more.hidden = shown.length === found.length;
    form.hidden = history;
    section.querySelector(".back").hidden = !history;
  };
  const go = (next, scroll) => {
    state = next;
    kept.write(state);
    show();
    if (scroll) section.scrollIntoView();
  };
  const given = () => Object.fromEntries([...new FormData(form)].filter(([, text]) => text !== ""));

  form.addEventListener("input", () => go(given()));
  form.addEventListener("reset", () => go({}));
  more.addEventListener("click", () => go({ ...state, shown: String(length() + PAGE) }));
  section.querySelector(".back").addEventListener("click", () => go(given(), true));
  if (location.hash.startsWith("#samples:")) {
    state = kept.read();
    if (state.of !== undefined && !threads.has(state.of)) state = {};
    for (const [name, text] of Object.entries(state)) if (form.elements[name]) form.elements[name].value = text;
    section.scrollIntoView();
  }
  show();
})();
