"""Draws the card of a run, or the comparison of several, into a file or for a browser that follows them."""

import glob
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.progress import track

from lightning_rlhf.assembly.serving import listen
from lightning_rlhf.console import console
from lightning_rlhf.errors import UserError, raise_problems
from lightning_rlhf.report.comparison.find import find_runs
from lightning_rlhf.report.read import read_run
from lightning_rlhf.report.run import Run


def report(runs: str | list[str], output: str | None, follow: bool, host: str, port: int, every: float) -> Path | None:
    """Writes the card of a run, or the comparison of several, or serves it until Ctrl-C.

    Args:
        runs: Folders of runs, folders that contain runs, or patterns.
        output: File of the comparison; None means `comparison.html` in the innermost folder that contains all runs.
        follow: Whether to serve the page, and to make it again when the runs have written something new.
        host: Address to listen at.
        port: Port to listen at; 0 means any free port.
        every: Seconds after which an open page asks for news.

    Returns:
        The file that was written; None after serving.

    Raises:
        UserError: If there is no run, a setting does not fit the number of runs, or the port is not available.
    """
    places = [runs] if isinstance(runs, str) else runs
    folders = find_runs(places)
    raise_problems(_problems(folders, output, follow, every))
    if follow:
        _serve(places, host, port, every)
        return None
    if len(folders) == 1 and output is None:
        from lightning_rlhf.report import write_report

        written = write_report(folders[0])
    else:
        written = Path(output).expanduser() if output else _common(folders) / "comparison.html"
        _write_comparison(_read(folders), written)
    console.print(f"report in {written}", markup=False, soft_wrap=True)
    return written


def page_of_sweep(folder: Path) -> Path | None:
    """Writes the comparison of the runs of a sweep into its folder.

    Args:
        folder: Folder of the sweep.

    Returns:
        The page; None if the folder has no runs of training.
    """
    try:
        runs = find_runs([glob.escape(str(folder))])
    except UserError:
        return None
    page = folder / "comparison.html"
    _write_comparison([read_run(run) for run in runs], page)
    return page


def _problems(folders: Sequence[Path], output: str | None, follow: bool, every: float) -> list[str]:
    problems = []
    if follow and output is not None:
        problems.append(f"output={output}: a page that is followed is not written; leave out output or follow")
    if every <= 0:
        problems.append(f"every={every}: must be positive")
    if output is None and len(folders) > 1 and _common(folders) == Path("/"):
        problems.append("output: the runs have no folder in common: give output=FILE")
    if output is not None and not Path(output).expanduser().parent.is_dir():
        problems.append(f"output={output}: the folder {Path(output).expanduser().parent} does not exist")
    if output is not None and Path(output).expanduser().is_dir():
        problems.append(f"output={output}: is a folder; name a file such as comparison.html")
    return problems


def _common(folders: Sequence[Path]) -> Path:
    """The innermost folder that contains all runs, relative to the current folder if it is there."""
    common = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    return common.relative_to(Path.cwd()) if common.is_relative_to(Path.cwd()) else common


def _read(folders: Sequence[Path]) -> list[Run]:
    steps = track(folders, "reading runs", console=console, transient=True, disable=not console.is_terminal)
    return [read_run(folder) for folder in steps]


def _write_comparison(runs: Sequence[Run], target: Path) -> None:
    from lightning_rlhf.report.comparison import compare
    from lightning_rlhf.report.html import write_page

    try:
        write_page(target, compare(runs, target))
    except OSError as error:
        raise UserError(f"output={target}: cannot be written: {error}") from error


def _serve(places: Sequence[str], host: str, port: int, every: float) -> None:
    from lightning_rlhf.report.comparison import compare
    from lightning_rlhf.report.follow import Live, followed, make_server, stamp_of
    from lightning_rlhf.report.links import readable
    from lightning_rlhf.report.page import render

    listener = listen(host, port)

    def folders() -> list[Path]:
        # A sweep begins further runs.
        return find_runs(places)

    def home() -> Path:
        return folders()[0] if len(folders()) == 1 else _common(folders())

    def page(stamp: str) -> str:
        found = [read_run(folder) for folder in folders()]
        html = render(found[0]) if len(found) == 1 else compare(found, home() / "comparison.html")
        return followed(html, stamp, every)

    live = Live(page, lambda: stamp_of(folders()))
    server = make_server(listener, live, lambda: readable(folders(), home()))
    shown = f"[{host}]" if ":" in host else host
    console.print(
        f"following {', '.join(places)} at http://{shown}:{listener.getsockname()[1]}/; Ctrl-C stops the server",
        markup=False,
        soft_wrap=True,
    )
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
    console.print("stopped")
