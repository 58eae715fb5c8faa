"""Links between the cards of stages."""

from pathlib import Path

from run_folders import write_run

from lightning_rlhf.report.lineage import cards_of_stages, siblings, sources
from lightning_rlhf.report.links import Link
from lightning_rlhf.report.read import read_run


def with_card(folder: Path) -> Path:
    (folder / "report.html").touch()
    return folder


def test_the_card_of_a_stage_links_to_the_other_stages_of_its_pipeline(tmp_path: Path) -> None:
    write_run(tmp_path, "pipeline")
    for stage in ("sft", "reward", "ppo"):
        with_card(write_run(tmp_path / stage, stage))
    assert siblings(read_run(tmp_path / "reward")) == [
        Link("../sft/report.html", "SFT"),
        Link("", "Reward model"),
        Link("../ppo/report.html", "PPO"),
    ]
    assert siblings(read_run(tmp_path)) == []
    assert cards_of_stages(read_run(tmp_path)) == {name: f"./{name}/report.html" for name in ("sft", "reward", "ppo")}


def test_a_run_links_to_the_cards_of_the_runs_whose_models_it_began_with(tmp_path: Path) -> None:
    sft, first, second = (with_card(write_run(tmp_path / name)) for name in ("sft/a", "reward/b", "reward/c"))
    reward = {"parts": {"x": {"path": str(first / "model")}, "y": {"path": str(second / "model")}}}
    settings = {"model": {"pretrained": str(sft / "model")}, "reward": reward}
    run = read_run(write_run(tmp_path / "ppo" / "d", settings=settings))
    assert sources(run) == [
        Link("./../../sft/a/report.html", "start model from sft/a"),
        Link("./../../reward/b/report.html", "reward model from reward/b"),
        Link("./../../reward/c/report.html", "reward model from reward/c"),
    ]


def test_a_model_from_the_hub_and_one_of_the_same_pipeline_have_no_link(tmp_path: Path) -> None:
    write_run(tmp_path, "pipeline")
    sft = with_card(write_run(tmp_path / "sft", "sft", settings={"model": {"pretrained": "openai-community/gpt2"}}))
    write_run(tmp_path / "ppo", settings={"model": {"pretrained": str(sft / "model")}})
    assert sources(read_run(tmp_path)) == []
    assert sources(read_run(tmp_path / "ppo")) == []
