"""The numbers and samples of a run for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_rlhf.report.read import read_run
from lightning_rlhf.report.run import Run, Sample, Stage

if TYPE_CHECKING:
    import pandas as pd

    from lightning_rlhf.report.sheet import Sheet


@dataclass(frozen=True, repr=False)
class RunStats:
    """What a run has logged, as data frames and as pictures. The run may have finished, or still be going on.

    Args:
        run: The run, as `load` reads it from a folder.

    Example:
        >>> stats = RunStats.load("outputs/ppo/2026-11-30_09-00-00")
        >>> stats.plot()
        >>> stats.samples().sort_values("score").head()
    """

    run: Run

    @classmethod
    def load(cls, run_dir: str | Path) -> RunStats:
        """Reads a run.

        Args:
            run_dir: Folder of one stage, or of a pipeline with a folder for each stage.

        Raises:
            UserError: If the folder does not exist.
        """
        return cls(read_run(Path(run_dir).expanduser()))

    def __repr__(self) -> str:
        """Says which run this is. Its samples alone would fill many pages of a notebook."""
        stages = ", ".join(stage.record.short_title for stage in self.run.stages)
        count = sum(len(stage.samples) for stage in self.run.stages)
        samples = "1 sample" if count == 1 else f"{count:,} samples"
        return f"RunStats of {self.run.folder}: {stages}; {self.run.result.status}; {samples}"

    def metrics(self) -> pd.DataFrame:
        """Returns all logged metrics, a row for each stage and time at which something was logged.

        Returns:
            The columns `stage` and `time`, and a column for each metric, NaN where it was not logged. `time` is the
            number of optimizer steps, or of iterations of PPO, before the value; 0 is before training.
        """
        import pandas as pd

        parts = [_metrics_of(stage) for stage in self.run.stages]
        together = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        names = sorted(set(together.columns) - {"stage", "time"})
        return together.reindex(columns=["stage", "time", *names])

    def samples(self) -> pd.DataFrame:
        """Returns all samples that the run has kept, a row for each answer.

        Returns:
            The column `stage`, and the fields of `Sample`: `iteration`, `phase`, `row`, `prompt`, `messages`,
            `response`, `score`, `kl` (nats a response), `length` (tokens), `gold`, `gold_name` and `finish_reason`.
        """
        import pandas as pd

        names = [field.name for field in fields(Sample)]
        rows = [
            {"stage": stage.name, **{name: getattr(sample, name) for name in names}}
            for stage in self.run.stages
            for sample in stage.samples
        ]
        return pd.DataFrame(rows, columns=["stage", *names])

    def plot(self, metrics: Sequence[str] | None = None) -> Sheet:
        """Draws the curves of the run card, or metrics of your choice.

        Args:
            metrics: Names of metrics, such as `val/score`, each of which gets a picture for each stage that has logged
                it. None draws what the run card shows.

        Returns:
            A figure of matplotlib, which a notebook shows; `plot().savefig("run.png")` writes it to a file.

        Raises:
            UserError: If no stage has logged one of the metrics, or there is nothing to draw.
        """
        from lightning_rlhf.report.sheet import draw_run

        return draw_run(self.run, metrics)


def _metrics_of(stage: Stage) -> pd.DataFrame:
    import pandas as pd

    columns = {name: pd.Series(series.y, index=series.x) for name, series in stage.series.items()}
    frame = pd.DataFrame(columns).sort_index().rename_axis("time").reset_index()
    return frame.assign(stage=stage.name)
