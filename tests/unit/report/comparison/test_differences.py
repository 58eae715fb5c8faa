"""Which settings of runs differ."""

from pathlib import Path

from run_folders import write_run

from lightning_rlhf.report.comparison.differences import differences, settings_of, short_labels
from lightning_rlhf.report.read import read_run


def test_only_settings_that_differ_are_shown_with_the_value_of_each_run(tmp_path: Path) -> None:
    configs = [
        {"seed": 1, "ppo": {"module": {"lr": 1e-4, "kl_coef": 0.05}}, "run_dir": "a", "resume": None},
        {"seed": 1, "ppo": {"module": {"lr": 2e-4, "kl_coef": 0.05}}, "run_dir": "b", "resume": "a"},
        {"seed": 1, "ppo": {"module": {"lr": 2e-4, "kl_coef": 0.05}}, "model": {"compile": True}, "run_dir": "c"},
    ]
    runs = [write_run(tmp_path / str(i), config=config) for i, config in enumerate(configs)]
    assert differences([settings_of(read_run(run)) for run in runs]) == {
        "model.compile": ("–", "–", "true"),
        "ppo.module.lr": ("0.0001", "0.0002", "0.0002"),
    }


def test_the_same_list_and_the_same_empty_node_do_not_differ(tmp_path: Path) -> None:
    config = {"stages": ["sft", "ppo"], "callbacks": {}}
    runs = [write_run(tmp_path / str(i), config=config) for i in range(2)]
    assert differences([settings_of(read_run(run)) for run in runs]) == {}


def test_without_hydras_file_the_settings_of_the_stages_are_compared_without_the_folder_of_the_run(
    tmp_path: Path,
) -> None:
    runs = []
    for name in ("a", "b"):
        settings = {"seed": len(runs), "logger": {"csv": {"save_dir": f"{tmp_path}/{name}/logs"}}}
        runs.append(write_run(tmp_path / name, settings=settings))
    assert differences([settings_of(read_run(run)) for run in runs]) == {"seed": ("0", "1")}


def test_the_label_of_a_setting_is_the_shortest_end_that_tells_it_apart() -> None:
    names = ["seed", "sft.module.lr", "ppo.module.lr", "ppo.module.kl_coef"]
    assert short_labels(names) == {
        "seed": "seed",
        "sft.module.lr": "sft.module.lr",
        "ppo.module.lr": "ppo.module.lr",
        "ppo.module.kl_coef": "kl_coef",
    }
