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
  const field = ({ section, name }) => document.querySelector(`#${section} [name="${name}"]`);
  const again = () => {
    const active = document.activeElement;
    const typing = active?.name ? { section: active.closest("[id]").id, name: active.name, at: active.selectionStart } : null;
    const open = parts.filter((part) => part.open).map(name);
    sessionStorage.setItem("followed", JSON.stringify({ at: scrollY, open, typing }));
    location.reload();
  };
  const before = JSON.parse(sessionStorage.getItem("followed"));
  sessionStorage.removeItem("followed");
  if (before) {
    history.scrollRestoration = "manual";
    parts.forEach((part) => { part.open = before.open.includes(name(part)); });
    const typed = before.typing && field(before.typing);
    typed?.focus({ preventScroll: true });
    if (typed && Number.isInteger(before.typing.at)) typed.setSelectionRange(before.typing.at, before.typing.at);
    scrollTo(0, before.at);
  }

  const ask = async () => {
    try {
      const news = await (await fetch("stamp", { cache: "no-store" })).text();
      if (news !== stamp) again();
      note.textContent = "This page follows the run.";
    } catch {
      note.textContent = "The report command has ended, so this page is no longer updated.";
    }
    setTimeout(ask, every * 1000);
  };
  setTimeout(ask, every * 1000);
})();
