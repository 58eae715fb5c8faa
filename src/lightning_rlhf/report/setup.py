"""The settings of each stage that people ask for first, and the machine and the code that it ran with."""

from collections.abc import Callable, Mapping

from lightning_rlhf.report.formatting import count, decimal
from lightning_rlhf.report.run import Run, Stage
from lightning_rlhf.report.settings import learning_rates, scorer, setting
from lightning_rlhf.report.table import Table


def setup(run: Run) -> Table:
    """A row for each setting that is known, with a column for each stage."""
    found: dict[str, Callable[[Stage], str]] = {
        "Start model": _start,
        "Weights": _weights,
        "Rows to train on": lambda stage: _rows(stage, "train"),
        "Held-out rows": lambda stage: _rows(stage, "held out"),
        "Prompts to answer": lambda stage: _rows(stage, "answered"),
        "Learning rate": _rates,
        "Minibatch": _minibatch,
        "Responses per iteration": lambda stage: _of_block(stage, "module.rollout_batch_size"),
        "Epochs or iterations": lambda stage: _of_block(stage, "trainer.max_epochs"),
        "Score": scorer,
        "Advantages": lambda stage: _of_block(stage, "module.credit.advantage"),
        "KL coefficient": lambda stage: _of_block(stage, "module.kl_coef"),
        "Beta": lambda stage: _of_block(stage, "module.beta"),
        "Precision": lambda stage: _text(setting(stage, "trainer.precision")),
        "Hardware": _hardware,
    }
    cells = {title: tuple(find(stage) for stage in run.stages) for title, find in found.items()}
    rows = tuple((title, *row) for title, row in cells.items() if any(row))
    return Table(("", *(stage.record.title for stage in run.stages)), rows)


def origin(run: Run) -> dict[str, str]:
    """The versions of packages and the commits of repositories, by name."""
    commits = {f"{name} (git)": commit for stage in run.stages for name, commit in stage.result.git.items()}
    versions = run.result.versions or next((stage.result.versions for stage in run.stages), {})
    return {**versions, **commits}


def _start(stage: Stage) -> str:
    """The model from which a stage starts: its name or folder, or the architecture that gets random weights."""
    if pretrained := setting(stage, "model.meta_dir") or setting(stage, "model.pretrained"):
        # A stage of a pipeline starts from the model of an earlier one, whose folder is beside its own.
        return str(pretrained).removeprefix(f"{stage.folder.resolve().parent}/")
    kind = setting(stage, "model.config.model_type")
    return f"{kind}, random weights" if kind else ""


def _weights(stage: Stage) -> str:
    return ", ".join(f"{role} {_size(sizes)}" for role, sizes in stage.result.parameters.items())


def _size(sizes: Mapping[str, int]) -> str:
    total, trained = sizes.get("total", 0), sizes.get("trained", 0)
    # A reward model has a bias that is not trained, which is no share of it.
    share = "" if count(trained) == count(total) else " (frozen)" if not trained else f" ({count(trained)} trained)"
    return count(total) + share


def _rows(stage: Stage, name: str) -> str:
    number = stage.result.rows.get(name)
    return count(number) if number else ""


def _minibatch(stage: Stage) -> str:
    used = _text(stage.result.minibatch_size)
    given = _of_block(stage, "module.minibatch_size") or _of_block(stage, "data.minibatch_size")
    return f"{used} (setting: {given})" if used and given and used != given else used or given


def _rates(stage: Stage) -> str:
    rates = learning_rates(stage).items()
    return ", ".join(f"{name.removesuffix('_lr')} {decimal(rate)}".removeprefix("lr ") for name, rate in rates)


def _of_block(stage: Stage, path: str) -> str:
    return _text(setting(stage, f"{stage.record.block}.{path}"))


def _text(value: object) -> str:
    if isinstance(value, float):
        return decimal(value)
    return "" if value is None else str(value)


def _hardware(stage: Stage) -> str:
    hardware = stage.result.hardware
    if "device" not in hardware:
        return ""
    processes, machines = hardware.get("processes", 1), hardware.get("machines", 1)
    many = f", {processes} processes" if processes != 1 else ""
    return f"{hardware['device']}{many}" + (f" on {machines} machines" if machines != 1 else "")
