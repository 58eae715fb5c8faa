// The table that sorts, the picture in parallel coordinates, and the answers side by side.
(() => {
  const table = document.querySelector(".sortable");
  const ordered = (a, b) => {
    const [x, y] = [a, b].map((text) => (text === "" ? null : Number(text)));
    if (a === "" || b === "") return (a === "") - (b === "");
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  table.querySelectorAll("th").forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
    const sign = head.ariaSort === "descending" || (head.ariaSort === "none" && !head.classList.contains("number")) ? 1 : -1;
    table.querySelectorAll("th").forEach((other) => { other.ariaSort = "none"; });
    head.ariaSort = sign === 1 ? "ascending" : "descending";
    const key = (row) => row.cells[at].dataset.order;
    const rows = [...table.tBodies[0].rows].sort((a, b) =>
      key(a) === "" || key(b) === "" ? ordered(key(a), key(b)) : sign * ordered(key(a), key(b)));
    table.tBodies[0].append(...rows);
  }));

  const section = document.getElementById("picture");
  if (!section) return;
  const form = section.querySelector("form"), runs = [...section.querySelectorAll(".run")];
  const axes = [...section.querySelectorAll(".axis")].map((node) => ({
    node, places: node.dataset.places.split(" ").map((text) => (text === "None" ? null : Number(text))), range: null,
  }));
  const height = Number(section.querySelector(".axis line").getAttribute("y2"));
  const both = (run) => document.querySelectorAll(`[data-run="${run}"]`);
  const kept = (run) => axes.every(({ places, range }) =>
    !range || (places[run] !== null && range[0] <= places[run] && places[run] <= range[1]));
  const paint = () => {
    const by = axes[form.elements.colour.value]?.places;
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
      paint();
    });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", paint);
  form.querySelector("button").addEventListener("click", () => {
    axes.forEach((axis) => { axis.range = null; });
    paint();
  });
  paint();
})();

(() => {
  const source = document.getElementById("answers-data");
  if (!source) return;
  const { runs, prompts } = JSON.parse(source.textContent);
  const section = document.getElementById("answers");
  const [form, status, list, more] = ["form", "[role=status]", ".list", ".more"].map((s) => section.querySelector(s));
  const PAGE = 8;
  let length = PAGE;
  const texts = prompts.map(({ messages, answers }) =>
    [...messages.map(([, text]) => text), ...answers.map((answer) => answer?.response ?? "")].join("\n").toLowerCase());
  const card = (answer, run) => {
    const header = make("header", "", make("span", "which", runs[run]), ...measures(answer?.measures ?? {}));
    if (answer?.cut) header.append(make("span", "", "cut off"));
    return make("div", "answer", header, answer ? shownText(answer.response) : make("div", "empty", "not answered"));
  };
  const show = () => {
    const boxes = [...form.querySelectorAll("[name=run]")];
    const chosen = boxes.length ? boxes.filter((box) => box.checked).map((box) => Number(box.value)) : [...runs.keys()];
    const words = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = prompts.filter((_, i) => words.every((word) => texts[i].includes(word)));
    status.textContent = `${found.length} of ${prompts.length} prompts, ${chosen.length} of ${runs.length} runs`;
    list.replaceChildren(...found.slice(0, length).map(({ messages, answers }) =>
      make("div", "pair", conversation(messages), make("div", "side", ...chosen.map((run) => card(answers[run], run))))));
    more.hidden = found.length <= length;
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { length = PAGE; show(); });
  more.addEventListener("click", () => { length += PAGE; show(); });
  section.querySelector(".browser").hidden = false;
  show();
})();
