"""A resumed run refuses settings that the checkpoint would silently override."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.changed_settings import changes, check_same_stages, check_unchanged
from lightning_rlhf.assembly.going_on import save_command
from lightning_rlhf.errors import UserError


def config(*overrides: str) -> DictConfig:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("train", ["model=tiny", "stage=ppo", "reward=gold", "run_dir=here", *overrides])


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run that was stopped, with its settings."""
    resolved = OmegaConf.to_container(config(), resolve=True)
    OmegaConf.save(OmegaConf.create(resolved), tmp_path / "config.yaml")
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["ppo.module.lr=0.5"], ["ppo.module.lr=0.5 was 0.0001"]),
        (["ppo.module.kl_coef=0.5", "seed=9"], ["ppo.module.kl_coef=0.5 was", "seed=9 was 1"]),
        (["optim.weight_decay=0.5"], ["ppo.module.optim.weight_decay=0.5 was"]),
        (["model.config.hidden_size=64"], ["model.config.hidden_size=64 was 32"]),
        (["roles=shared"], ["roles=shared was separate"]),
        (["ppo.critic_head=normal"], ["ppo.critic_head=normal was zero"]),
        (["data.val_fraction=0.5", "data.on_error=skip"], ["ppo.data.on_error=skip was", "ppo.data.val_fraction=0.5"]),
        (["strategy=fsdp2"], ["strategy=fsdp was single or ddp"]),
    ],
)
def test_what_the_checkpoint_holds_cannot_change(overrides: list[str], named: list[str], stopped: Path) -> None:
    with pytest.raises(UserError) as error:
        check_unchanged(config(*overrides), "ppo", stopped, finished=False, handed_on=False)
    lines = str(error.value).splitlines()
    assert [line.split(" in ")[0].startswith(start) for line, start in zip(lines, named, strict=True)] == [True] * len(
        lines
    )


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["ppo.trainer.max_epochs=500", "ppo.module.minibatch_size=8", "ppo.trainer.accumulate_grad_batches=2"],
        ["ppo.module.max_tokens_per_micro_batch=500"],
        ["rollout.micro_batch_size=8", "data.max_prompt_length=8", "data.prompts_held_out=null"],
        ["trainer.devices=2", "strategy=ddp", "logger=none", "callbacks.samples.every=1", "run_dir=there"],
        ["model.gradient_checkpointing=true", "rollout.sampling.temperature=0.5", "ppo.module.loss.clip_range=0.1"],
    ],
)
def test_what_takes_effect_may_change(overrides: list[str], stopped: Path) -> None:
    check_unchanged(config(*overrides), "ppo", stopped, finished=False, handed_on=False)


def test_a_token_budget_of_data_may_change(tmp_path: Path) -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        old, new = (
            compose("train", ["stage=sft", f"run_dir={tmp_path}", f"sft.data.max_tokens_per_micro_batch={budget}"])
            for budget in ("null", "500")
        )
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(old, resolve=True)), tmp_path / "config.yaml")
    check_unchanged(new, "sft", tmp_path, finished=False, handed_on=False)


def test_other_data_are_refused_and_data_that_were_moved_are_not(stopped: Path) -> None:
    settings = OmegaConf.load(stopped / "config.yaml")
    settings.ppo.data.path = str(stopped / "old.jsonl")
    OmegaConf.save(settings, stopped / "config.yaml")
    moved = config("data.prompts=new.jsonl")
    check_unchanged(moved, "ppo", stopped, finished=False, handed_on=False)
    (stopped / "old.jsonl").touch()
    with pytest.raises(UserError, match=r"ppo.data.path=new.jsonl was .*old.jsonl in "):
        check_unchanged(moved, "ppo", stopped, finished=False, handed_on=False)


def test_the_difference_to_the_last_command_is_shown_by_setting(tmp_path: Path) -> None:
    save_command(tmp_path, config("resume=a"), [])
    changed = ["ppo.trainer.max_epochs=7", "+ppo.trainer.max_time=1", "~ppo.data.val_batch_size"]
    assert changes(config(*changed, f"resume={tmp_path}")) == {
        "ppo.trainer.max_epochs": (12, 7),
        "ppo.trainer.max_time": (None, 1),
        "ppo.data.val_batch_size": (64, None),
    }
    assert changes(config(*changed, f"resume={tmp_path / 'elsewhere'}")) == changes(config(*changed)) == {}


def test_other_stages_are_refused_by_name(tmp_path: Path) -> None:
    save_command(tmp_path, config(), [])
    check_same_stages(config(f"resume={tmp_path}"))
    with pytest.raises(
        UserError, match=r"stages=\['dpo'\] was \['ppo'\] in .*: a resumed run cannot change its stages"
    ):
        check_same_stages(config(f"resume={tmp_path}", "stage=dpo"))


def test_a_stage_that_is_finished_takes_no_settings(stopped: Path) -> None:
    changed = config("ppo.trainer.max_epochs=500")
    with pytest.raises(UserError, match="ppo.trainer.max_epochs=500 was .*, where ppo has finished"):
        check_unchanged(changed, "ppo", stopped, finished=True, handed_on=False)


def test_a_model_that_was_handed_on_may_stand_elsewhere(stopped: Path) -> None:
    moved = config("model.pretrained=/elsewhere/sft/model")
    check_unchanged(moved, "ppo", stopped, finished=False, handed_on=True)
    with pytest.raises(UserError, match=r"model.pretrained=/elsewhere/sft/model was None"):
        check_unchanged(moved, "ppo", stopped, finished=False, handed_on=False)


def test_without_the_settings_of_the_stopped_run_nothing_is_compared(tmp_path: Path) -> None:
    check_unchanged(config("seed=9"), "ppo", tmp_path, finished=False, handed_on=False)


def test_the_settings_of_a_run_from_somebody_else_are_read_as_data(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "a password")
    settings = OmegaConf.load(stopped / "config.yaml")
    settings.ppo.module.lr = "${oc.env:SECRET}"
    OmegaConf.save(settings, stopped / "config.yaml")
    problem = r"config.yaml: ppo.module.lr=\$\{oc.env:SECRET\}: this is an interpolation"
    with pytest.raises(UserError, match=problem) as error:
        check_unchanged(config(), "ppo", stopped, finished=False, handed_on=False)
    assert "a password" not in str(error.value)


def test_files_that_a_run_writes_for_itself_are_the_same_in_another_folder(stopped: Path) -> None:
    written = ["data.prompts=${run_dir}/data/prompts.jsonl", "data.prompts_held_out=null"]
    settings = config(*written, f"run_dir={stopped}")
    OmegaConf.save(OmegaConf.create(OmegaConf.to_container(settings, resolve=True)), stopped / "config.yaml")
    check_unchanged(config(*written, "run_dir=elsewhere"), "ppo", stopped, finished=True, handed_on=False)
    with pytest.raises(UserError, match="ppo.data.path=other.jsonl was"):
        check_unchanged(config("data.prompts=other.jsonl", written[1]), "ppo", stopped, finished=True, handed_on=False)
