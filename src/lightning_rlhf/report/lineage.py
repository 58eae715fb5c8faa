"""Links between the cards of stages: the other stages of a pipeline, and the runs whose models a run began with."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from lightning_rlhf.report.links import Link, address, stage_of
from lightning_rlhf.report.run import Run
from lightning_rlhf.report.settings import setting
from lightning_rlhf.stages import STAGES


def siblings(run: Run) -> list[Link]:
    """The stages of the pipeline that a run is a stage of, in their order; the address of the run itself is empty."""
    own = run.folder.resolve()
    if stage_of(own.parent / "result.json") != "pipeline":
        return []
    names = [name for name in STAGES if (own.parent / name / "report.html").is_file() or own.name == name]
    return [Link("" if name == own.name else f"../{name}/report.html", STAGES[name].short_title) for name in names]


def cards_of_stages(run: Run) -> dict[str, str]:
    """The addresses of the cards that the stages of a pipeline have of their own, by the name of the stage."""
    own = run.folder.resolve()
    places = {stage.name: stage.folder / "report.html" for stage in run.stages if stage.folder.resolve() != own}
    return {name: address(run.folder, place) for name, place in places.items() if place.is_file()}


def sources(run: Run) -> list[Link]:
    """The cards of the earlier runs whose models a run began with, or was scored by."""
    own = run.folder.resolve()
    found: dict[str, Link] = {}
    for stage in run.stages:
        for what, path in (
            ("start model", setting(stage, "model.pretrained")),
            *(("reward model", path) for path in _paths(setting(stage, "reward"))),
        ):
            folder = Path(str(path)).expanduser()
            card = folder.parent / "report.html"
            # A pipeline hands on models inside its folder, and its stages are linked to each other already.
            near = own.parent if stage_of(own.parent / "result.json") == "pipeline" else own
            if path and card.is_file() and not card.resolve().is_relative_to(near):
                name = os.path.join(card.parent.parent.name, card.parent.name)
                found.setdefault(str(card), Link(address(run.folder, card), f"{what} from {name}"))
    return list(found.values())


def _paths(node: object) -> Iterator[str]:
    """The folders of the reward models in the configuration of a reward."""
    if not isinstance(node, Mapping):
        return
    for name, value in node.items():
        if name == "path" and isinstance(value, str):
            yield value
        else:
            yield from _paths(value)
