"""The files in deploy/ hold what docs/strategies.md and pyproject.toml say. Neither docker nor SLURM runs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from lightning_rlhf.assembly.going_on import save_command

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
SCRIPT = (ROOT / "deploy" / "train.sbatch").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCS = (ROOT / "docs" / "strategies.md").read_text()
# Lines for the shell in the page, each with its continuations.
LINES = [
    line.strip()
    for block in re.findall(r"```bash\n(.*?)```", DOCS, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]


def words_of(program: str) -> list[list[str]]:
    """The words of each line of the page that starts a program."""
    found = [shlex.split(line, comments=True) for line in LINES]
    return [words for words in found if words[0] == program]


def instructions(name: str) -> list[str]:
    """The arguments of each instruction of the Dockerfile with a name."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", joined, re.MULTILINE)


def test_the_job_script_has_the_line_of_the_page() -> None:
    (page,) = words_of("srun")
    (line,) = re.findall(r"^srun (?:.*\\\n)*.*", SCRIPT, re.MULTILINE)
    assert shlex.split(line.replace("\\\n", " ")) == [*page, "$@"]
    assert ["sbatch", "deploy/train.sbatch"] in words_of("sbatch")
    assert ["sbatch", "deploy/train.sbatch", "resume=outputs/job-1234"] in words_of("sbatch")


def test_the_job_asks_for_what_its_line_takes() -> None:
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", SCRIPT, re.MULTILINE))
    (page,) = words_of("srun")
    for name in ("nodes", "ntasks-per-node", "gres"):
        assert page[page.index(f"--{name}") + 1] == asked[name]
    # Lightning takes a job of these names for an interactive shell, so its processes would not agree on a run folder.
    assert asked["job-name"] not in ("bash", "interactive")


@pytest.mark.parametrize("program", [["bash", "-n"], ["shellcheck"]])
def test_the_job_script_has_no_mistake_that_a_checker_finds(program: list[str]) -> None:
    if shutil.which(program[0]) is None:
        pytest.skip(f"there is no {program[0]}")
    done = subprocess.run([*program, ROOT / "deploy" / "train.sbatch"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_that_slurm_starts_again_goes_on_with_its_run(tmp_path: Path) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    srun.chmod(0o755)
    environment = {"PATH": f"{srun.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8"}

    def overrides(*given: str) -> list[str]:
        script = ["bash", str(ROOT / "deploy" / "train.sbatch"), *given]
        done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        (page,) = words_of("srun")
        return done.stdout.splitlines()[len(page) - 1 :]

    assert overrides("seed=2") == ["seed=2", "hydra.run.dir=outputs/job-7"]
    # A run that is continued has a folder already.
    assert overrides("resume=RUN", "seed=2") == ["resume=RUN", "seed=2"]
    save_command(tmp_path / "outputs" / "job-7", OmegaConf.create({}), ["seed=2"])
    assert overrides("seed=2") == ["seed=2", "resume=outputs/job-7"]
    # W&B has a setting that is called resume too.
    assert overrides("+logger.wandb.resume=allow") == ["+logger.wandb.resume=allow", "resume=outputs/job-7"]
    assert overrides("++resume=RUN") == ["++resume=RUN"]
    assert overrides("++hydra.run.dir=x", "seed=2") == ["seed=2", "hydra.run.dir=x"]
    # The folder may be the user's own.
    own = "hydra.run.dir=my runs/a"
    assert overrides(own, "seed=2") == ["seed=2", own]
    assert overrides("resume=RUN", own) == ["resume=RUN", own]
    save_command(tmp_path / "my runs" / "a", OmegaConf.create({}), ["seed=2"])
    assert overrides(own, "seed=2") == ["seed=2", "resume=my runs/a"]


def test_the_image_holds_all_that_the_package_is_built_from() -> None:
    copied = {name for words in instructions("COPY") for name in words.split()[:-1]}
    assert all((ROOT / name).exists() for name in copied)
    project = PROJECT["project"]
    # The package has links to the other folders.
    links = (path for path in (ROOT / "src" / "lightning_rlhf").iterdir() if path.is_symlink())
    folders = {"src", *(path.resolve().name for path in links)}
    assert copied >= {
        "pyproject.toml",
        "constraints.txt",
        "train.py",
        project["readme"],
        *project["license-files"],
        *folders,
    }
    allowed = re.findall(r"^!(.*)$", (ROOT / "deploy" / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert set(allowed) == copied


def test_the_image_installs_extras_that_there_are() -> None:
    (extras,) = re.findall(r"'\.\[(.*)\]'", DOCKERFILE)
    assert set(extras.split(",")) <= PROJECT["project"]["optional-dependencies"].keys()


def test_the_page_starts_the_image_that_it_builds_with_lines_that_it_explains() -> None:
    (build, *_), *runs = words_of("docker")
    assert build == "docker"
    assert runs
    explained = [shlex.join(words) for words in words_of("python")]
    (folder,) = instructions("WORKDIR")
    for words in runs:
        position = words.index("lightning-rlhf")
        assert shlex.join(words[position + 1 :]) in explained
        assert words[words.index("--volume") + 1].endswith(f":{folder}/outputs")
    # Without a command, the image runs one of these lines.
    (command,) = instructions("CMD")
    assert shlex.join(json.loads(command)) in explained


@pytest.mark.parametrize("text", [DOCKERFILE, SCRIPT])
def test_what_has_not_been_tried_says_so(text: str) -> None:
    assert "\n# Not tried: " in text
