// The table that sorts, the picture in parallel coordinates, and the answers side by side. What a person has chosen is
// in the address after #view:.
const inView = inAddress("view");
const view = inView.read();
const keep = (changes) => {
  Object.assign(view, changes);
  for (const name of Object.keys(view)) if (view[name] === "" || view[name] === null) delete view[name];
  inView.write(view);
};

(() => {
  const table = document.querySelector(".sortable");
  const ordered = (a, b) => {
    const [x, y] = [a, b].map((text) => (text === "" ? null : Number(text)));
    if (a === "" || b === "") return (a === "") - (b === "");
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  const heads = [...table.querySelectorAll("th")];
  const sort = (at, sign) => {
    heads.forEach((head) => { head.ariaSort = "none"; });
    heads[at].ariaSort = sign === 1 ? "ascending" : "descending";
    const key = (row) => row.cells[at].dataset.order;
    const rows = [...table.tBodies[0].rows].sort((a, b) =>
      key(a) === "" || key(b) === "" ? ordered(key(a), key(b)) : sign * ordered(key(a), key(b)));
    table.tBodies[0].append(...rows);
  };
  heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.ariaSort === "descending" || (head.ariaSort === "none" && !head.classList.contains("number")) ? 1 : -1;
    sort(at, sign);
    keep({ sort: `${head.textContent}${sign === 1 ? "+" : "-"}` });
  }));
  const sorted = heads.findIndex((head) => head.textContent === view.sort?.slice(0, -1));
  if (sorted >= 0) sort(sorted, view.sort.endsWith("+") ? 1 : -1);
})();

(() => {
  const section = document.getElementById("picture");
  if (!section) return;
  const form = section.querySelector("form"), runs = [...section.querySelectorAll(".run")];
  const colour = form.elements.colour;
  const axes = [...section.querySelectorAll(".axis")].map((node) => {
    const name = `range ${node.querySelector(".label").textContent}`;
    const places = node.dataset.places.split(" ").map((text) => (text === "None" ? null : Number(text)));
    return { node, name, places, range: view[name]?.split(",").map(Number) ?? null };
  });
  const height = Number(section.querySelector(".axis line").getAttribute("y2"));
  const both = (run) => document.querySelectorAll(`[data-run="${run}"]`);
  const kept = (run) => axes.every(({ places, range }) =>
    !range || (places[run] !== null && range[0] <= places[run] && places[run] <= range[1]));
  const paint = () => {
    const by = axes[colour.value]?.places;
    runs.forEach((path, run) => {
      const place = by?.[run] ?? null;
      path.style.setProperty("--strength", by ? `${place === null ? 8 : 15 + 85 * place}%` : "60%");
      both(run).forEach((node) => node.classList.toggle("left-out", !kept(run)));
    });
    axes.forEach(({ node, range }) => {
      const [low, high] = range ?? [0, 0];
      node.querySelector(".brush").setAttribute("y", height * (1 - high));
      node.querySelector(".brush").setAttribute("height", height * (high - low));
    });
  };
  for (const node of document.querySelectorAll("[data-run]")) {
    const mark = (on) => both(node.dataset.run).forEach((other) => other.classList.toggle("marked", on));
    node.addEventListener("pointerenter", () => {
      mark(true);
      if (node.matches("path")) node.parentNode.insertBefore(node, section.querySelector(".axis"));
    });
    node.addEventListener("pointerleave", () => mark(false));
  }
  for (const axis of axes) {
    const grip = axis.node.querySelector(".grip");
    const place = (event) => {
      const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(grip.getScreenCTM().inverse());
      return Math.min(Math.max(1 - point.y / height, 0), 1);
    };
    let start = null;
    grip.addEventListener("pointerdown", (event) => { start = place(event); grip.setPointerCapture(event.pointerId); });
    grip.addEventListener("pointermove", (event) => {
      if (start === null) return;
      axis.range = [start, place(event)].sort((a, b) => a - b);
      paint();
    });
    grip.addEventListener("pointerup", (event) => {
      // A click without a drag keeps all runs.
      if (Math.abs(place(event) - start) < 0.02) axis.range = null;
      start = null;
      keep({ [axis.name]: axis.range?.map((place) => place.toFixed(3)).join() ?? null });
      paint();
    });
  }
  const chosen = [...colour.options].find((option) => option.text === view.colour);
  if (chosen) colour.value = chosen.value;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => {
    keep({ colour: colour.selectedOptions[0].text });
    paint();
  });
  form.querySelector("button").addEventListener("click", () => {
    axes.forEach((axis) => { axis.range = null; });
    keep(Object.fromEntries(axes.map(({ name }) => [name, null])));
    paint();
  });
  paint();
})();

(() => {
  const found = chooser("answers");
  if (!found) return;
  const { data: { runs, about, prompts }, form, status, list, more } = found;
  const PAGE = 8;
  const length = () => Number(view.shown ?? PAGE);
  const boxes = [...form.querySelectorAll("[name=run]")];
  const has = search(prompts.map(({ messages, answers }) =>
    [...messages.map(([, text]) => text), ...answers.map((answer) => answer?.response ?? "")]));
  const card = (answer, run) => {
    const top = header(runs[run], answer ?? {});
    if (about[run]) top.append(make("span", "about", about[run]));
    return make("div", "answer", top, answer ? shownText(answer.response) : make("div", "empty", "not answered"));
  };
  const show = () => {
    const chosen = boxes.length ? boxes.filter((box) => box.checked).map((box) => Number(box.value)) : [...runs.keys()];
    const searched = has(form.elements.q.value), found = prompts.filter((_, i) => searched(i));
    status.textContent = `${found.length} of ${prompts.length} prompts, ${chosen.length} of ${runs.length} runs`;
    list.replaceChildren(...found.slice(0, length()).map(({ messages, answers }) =>
      make("div", "pair", conversation(messages), make("div", "side", ...chosen.map((run) => card(answers[run], run))))));
    more.hidden = found.length <= length();
  };
  form.addEventListener("input", () => {
    // By their names, because a sweep that goes on has further runs later.
    const names = boxes.filter((box) => box.checked).map((box) => runs[box.value]);
    keep({ q: form.elements.q.value, runs: JSON.stringify(names), shown: null });
    show();
  });
  more.addEventListener("click", () => { keep({ shown: String(length() + PAGE) }); show(); });
  form.elements.q.value = view.q ?? "";
  if (view.runs) boxes.forEach((box) => { box.checked = JSON.parse(view.runs).includes(runs[box.value]); });
  show();
})();
