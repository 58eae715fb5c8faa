"""The content of `result.json`, which `train` writes for each stage and for a pipeline."""

from typing import NotRequired, TypedDict


class RunResult(TypedDict):
    """The result of a stage, or of a pipeline. Callbacks may add further keys to that of a stage."""

    stage: str
    """Name of the stage, or `pipeline`."""
    status: str
    """`running`, `finished`, `stopped`, `interrupted`, `diverged` (numbers are no longer finite) or `failed`."""
    metrics: dict[str, float | None]
    """Held-out metrics at the end of the stage, None for one that is not finite; empty for a pipeline."""
    model_dir: str | None
    """Folder of the exported model; None for a pipeline whose last stage has not finished."""
    seconds: float
    """Duration of the stage, or of all stages that have finished."""
    versions: dict[str, str]
    """Versions of Python and of the packages that affect the numbers."""
    seed: int
    """Seed of the run."""
    rows: NotRequired[dict[str, int]]
    """Numbers of rows that the stage has trained on (`train`), and kept for evaluation (`held out`)."""
    minibatch_size: NotRequired[int | None]
    """The minibatch size of the stage, which is smaller than the setting if there were too few rows for it."""
    accumulate_grad_batches: NotRequired[int]
    """The number of parts of a minibatch, which is larger than the setting if a token budget or the memory asks for
    more."""
    stages: NotRequired[dict[str, "RunResult"]]
    """Results of the stages of a pipeline, by name."""
