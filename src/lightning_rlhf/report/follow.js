// Loads the page again when its runs have written something new. The page was made at the stamp that it carries.
(() => {
  const { stamp, every } = document.body.dataset;
  if (!stamp) return;
  const note = make("div", "follow", "This page follows the run.");
  note.setAttribute("role", "status");
  document.body.append(note);
  const ask = async () => {
    try {
      const news = await (await fetch("stamp", { cache: "no-store" })).text();
      if (news !== stamp) location.reload();
      note.textContent = "This page follows the run.";
    } catch {
      note.textContent = "The report command has ended, so this page is no longer updated.";
    }
    setTimeout(ask, every * 1000);
  };
  setTimeout(ask, every * 1000);
})();
