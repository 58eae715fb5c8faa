"""The Tab key in real shells, and the candidates that they ask for."""

import os
import pty
import select
import shutil
import sys
import time
from pathlib import Path

import pytest

from lightning_rlhf.assembly.config_files import options
from lightning_rlhf.cli import COMMANDS
from lightning_rlhf.cli.completion import SHELLS, answer, candidates
from lightning_rlhf.errors import UserError

# Interactive and without files of the user, and what the shell reads first.
START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], 'eval "$(lightning-rlhf -sc install=bash)"'),
    "zsh": (["zsh", "-f", "-i"], 'autoload -U compinit && compinit -D && eval "$(lightning-rlhf -sc install=zsh)"'),
    "fish": (["fish", "--no-config", "-i"], "lightning-rlhf -sc install=fish | source"),
}


# Asks the real program what the Tab key asks, and otherwise shows the arguments that the shell passes.
SHOW = """#!/bin/sh
[ "$1" = -sc ] && exec {python} -m lightning_rlhf.cli "$@"
printf '[%s]' "$@"
"""
# What is typed before the Tab key, and the arguments after it. An @ that is typed next shows where the cursor is.
TYPED = [
    ("doc", "[doctor][@]"),
    ("train strat", "[train][strategy=@]"),
    ("train strategy=deepspeed_zero3_n", "[train][strategy=deepspeed_zero3_nvme][@]"),
    ("train model=gpt2/sm", "[train][model=gpt2/small][@]"),
    ("train model=gpt2", "[train][model=gpt2/@]"),
    ("plan device_m", "[plan][device_memory=@]"),
    ("train stage=sft sft.module.optim.we", "[train][stage=sft][sft.module.optim.weight_decay=@]"),
    ("train seed=1 roll", "[train][seed=1][rollout@]"),
    ("train data=files data.path=my_p", "[train][data=files][data.path=my_pairs.jsonl][@]"),
]


class Terminal:
    """A shell in a terminal of its own, whose keys a test presses."""

    def __init__(self, shell: str, folder: Path) -> None:
        program, script = START[shell]
        show = folder / "bin" / "lightning-rlhf"
        show.parent.mkdir()
        show.write_text(SHOW.format(python=sys.executable))
        show.chmod(0o755)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            path = f"{show.parent}{os.pathsep}{os.environ['PATH']}"
            own = {"PATH": path, "HOME": str(folder), "TERM": "dumb", "COLUMNS": "200", "LC_ALL": "C.UTF-8"}
            os.chdir(folder)
            own |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
            os.execvpe(program[0], program, own)
        self.press(f"{script}; printf 'rea%s\\n' dy\r")
        self.read_until("ready")

    def press(self, keys: str) -> None:
        """Sends keys, as a user types them."""
        os.write(self.fd, keys.encode())

    def read_until(self, wanted: str, seconds: float = 60) -> str:
        """What the terminal shows until it has shown a text."""
        shown, end = "", time.monotonic() + seconds
        while wanted not in shown:
            left = end - time.monotonic()
            assert left > 0, f"{wanted!r} is not in {shown!r}"
            if select.select([self.fd], [], [], left)[0]:
                shown += os.read(self.fd, 4096).decode(errors="replace")
        return shown

    def close(self) -> None:
        """Ends the shell."""
        os.close(self.fd)
        os.waitpid(self.pid, 0)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_tab_key_completes_commands_groups_options_keys_and_files(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    (tmp_path / "my_pairs.jsonl").touch()
    terminal = Terminal(shell, tmp_path)
    for typed, expected in TYPED:
        terminal.press(f"lightning-rlhf {typed}\t@\r")
        assert expected in terminal.read_until("@]")
    terminal.close()


@pytest.mark.parametrize("shell", SHELLS)
def test_the_readme_has_the_line_that_installs_it(shell: str) -> None:
    line = START[shell][1].rpartition("&& ")[2]
    assert f"\n{line} " in (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lightning-rlhf ", sorted([*COMMANDS, "--help", "--version"])),
        ("lightning-rlhf unknown ", []),
        ("lightning-rlhf train --", ["--cfg", "--help", "--multirun", "--version"]),
        ("lightning-rlhf train strategy=f", ["strategy=fsdp", "strategy=fsdp2"]),
        # `base` is a file in the folder of a group, but no option.
        ("lightning-rlhf train rollout=", ["rollout=native", "rollout=padded", "rollout=vllm", "rollout=vllm_server"]),
        (
            "lightning-rlhf train +strategy=d",
            ["+strategy=ddp", *[f"+strategy={name}" for name in options("strategy") if name.startswith("deep")]],
        ),
        ("lightning-rlhf train stage=sft sft.", ["sft.data.", "sft.module.", "sft.trainer."]),
        # What is chosen before decides which keys there are.
        ("lightning-rlhf train stage=sft ppo.", []),
        ("lightning-rlhf train stage=dpo dpo.module.beta=", ["dpo.module.beta=0.5"]),
        ("lightning-rlhf train stage=dpo experiment=none dpo.module.beta=", ["dpo.module.beta=0.1"]),
        ("lightning-rlhf train ppo.module.exact_kl=", ["ppo.module.exact_kl=false", "ppo.module.exact_kl=true"]),
        # An override before it that is wrong, or an open quote, does not silence the rest.
        ("lightning-rlhf train stage=none rol", ["roles=", "rollout.", "rollout="]),
        ("lightning-rlhf train 'stage=sft se", ["search=", "seed="]),
        ("lightning-rlhf plan mf", ["mfu="]),
        ("lightning-rlhf convert ", ["dtype=", "input_dir=", "max_shard_size=", "output_dir="]),
        ("lightning-rlhf export strat", []),
    ],
)
def test_the_candidates_of_a_line_are_what_its_last_word_can_become(line: str, expected: list[str]) -> None:
    assert sorted(candidates(line, COMMANDS)) == sorted(expected)


def test_another_shell_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match="-sc install=tcsh: expected install=SHELL with one of bash, zsh, fish"):
        answer(["-sc", "install=tcsh"], COMMANDS)


def test_the_class_that_a_node_builds_is_no_candidate() -> None:
    found = candidates("lightning-rlhf train stage=sft sft.module.", COMMANDS)
    assert "sft.module.lr=" in found
    assert not any("._" in name for name in found)
