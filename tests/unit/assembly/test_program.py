"""The line to go on starts the program as it was started."""

import pytest

from lightning_rlhf.assembly.program import program_words, through_torchrun

AGENT = ["--nnodes", "2", "--nproc-per-node=8"]


@pytest.mark.parametrize(
    ("launcher", "rank", "expected"),
    [
        (["/v/bin/python", "/v/bin/torchrun"], ["/v/bin/python", "-u", "train.py"], ["torchrun", *AGENT, "train.py"]),
        (
            ["/v/bin/python3", "-m", "torch.distributed.run"],
            ["/v/bin/python3", "-u", "here/train.py"],
            ["python3", "-m", "torch.distributed.run", *AGENT, "here/train.py"],
        ),
        (
            ["/v/bin/python", "/v/bin/torchrun"],
            ["/v/bin/python", "-u", "-m", "lightning_rlhf.cli", "train"],
            ["torchrun", *AGENT, "-m", "lightning_rlhf.cli", "train"],
        ),
    ],
)
@pytest.mark.parametrize("overrides", [[], ["stage=sft", "--config-dir", "mine", "data.path=train.py"]])
def test_torchrun_starts_the_run_again_with_its_own_options(
    launcher: list[str], rank: list[str], expected: list[str], overrides: list[str]
) -> None:
    program = [word for word in rank[1:] if word != "-u"]
    words = [*launcher, *AGENT, *program, *overrides]
    assert through_torchrun(words, [*rank, *overrides]) == expected


def test_another_parent_is_not_taken_for_torchrun() -> None:
    assert through_torchrun(["bash", "job.sh"], ["python", "train.py", "stage=sft"]) == []
    assert through_torchrun([], ["python", "train.py", "stage=sft"]) == []


def test_a_task_of_slurm_is_started_by_srun_and_a_single_one_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py", "stage=sft"])
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert program_words() == ["python", "train.py"]
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert program_words() == ["srun", "python", "train.py"]
    monkeypatch.setenv("SLURM_JOB_NAME", "bash")
    assert program_words() == ["python", "train.py"]
