// Loads the page again when its runs have written something new. The page was made at the stamp that it carries.
(() => {
  const { stamp, every } = document.body.dataset;
  if (!stamp) return;
  const note = make("div", "follow", "This page follows the run.");
  note.setAttribute("role", "status");
  document.body.append(note);

  // What the address does not hold goes through the session: the place on the page, open parts, and where one types.
  const parts = [...document.querySelectorAll("details")];
  const name = (part) => `${part.closest("[id]")?.id} ${part.querySelector("summary").textContent.replace(/\d+/g, "")}`;
  const fields = (section) => [...document.querySelector(`#${section} form`)?.elements ?? []];
  const again = () => {
    const active = document.activeElement, section = active?.form && active.closest("section").id;
    const typing = section && {
      section, place: fields(section).indexOf(active), selected: [active.selectionStart, active.selectionEnd],
    };
    const open = parts.filter((part) => part.open).map(name);
    sessionStorage.setItem("followed", JSON.stringify({ at: scrollY, open, typing }));
    location.reload();
  };
  const before = JSON.parse(sessionStorage.getItem("followed"));
  sessionStorage.removeItem("followed");
  if (before) {
    history.scrollRestoration = "manual";
    parts.forEach((part) => { part.open = before.open.includes(name(part)); });
    const { section, place, selected } = before.typing ?? {};
    const typed = section && fields(section)[place];
    typed?.focus({ preventScroll: true });
    if (typed && Number.isInteger(selected[0])) typed.setSelectionRange(...selected);
    scrollTo(0, before.at);
  }

  const ask = async () => {
    try {
      const news = await (await fetch("stamp", { cache: "no-store" })).text();
      // A reader may be about to copy what is selected.
      const waits = news !== stamp && !getSelection().isCollapsed;
      if (news !== stamp && !waits) again();
      note.textContent = waits ? "There is more, which appears once no text is selected." : "This page follows the run.";
    } catch {
      note.textContent = "The report command has ended, so this page is no longer updated.";
    }
    setTimeout(ask, every * 1000);
  };
  setTimeout(ask, every * 1000);
})();
