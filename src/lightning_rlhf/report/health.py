"""The health of a run: the alarms and the checks that its results record."""

from lightning_rlhf.report.run import Run
from lightning_rlhf.report.table import Table


def rung(run: Run) -> Table | None:
    """The alarms of all stages, each with the time of its first occurrence; None if no stage was watched."""
    if all(stage.result.alarms is None for stage in run.stages):
        return None
    rows = [
        (
            str(alarm["name"]),
            stage.record.title,
            f"iteration {alarm['iteration']}" if stage.record.samples else f"step {alarm['step']}",
            str(alarm["message"]),
            str(alarm["remedy"]),
        )
        for stage in run.stages
        for alarm in stage.result.alarms or ()
    ]
    return Table(("Alarm", "Stage", "Since", "What it saw", "What to do"), tuple(rows))


def checks(run: Run) -> Table:
    """The checks at the start of all stages."""
    rows = tuple(
        (str(check.get("check")), stage.record.title, str(check.get("status")), str(check.get("found")))
        for stage in run.stages
        for check in stage.result.checks
    )
    return Table(("Check", "Stage", "Result", "What it found"), rows)


def stopped_by(run: Run) -> str | None:
    """The alarm that stopped a stage; None if no alarm did."""
    return next((stage.result.stopped_by for stage in run.stages if stage.result.stopped_by), None)
