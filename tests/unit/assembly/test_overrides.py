"""Settings on the command line that would have no effect are refused."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from lightning_rlhf.assembly.config_files import groups_of, options, sections
from lightning_rlhf.assembly.overrides import check_command_line, check_plan
from lightning_rlhf.errors import UserError


def checked(*overrides: str, model: str = "tiny", experiment: str = "demo") -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", [f"model={model}", f"experiment={experiment}", *overrides])
    check_command_line(config, overrides, {"model": model, "experiment": experiment})


@pytest.mark.parametrize(
    ("overrides", "choices", "message"),
    [
        (
            ["stage=sft", "reward_model.module.lr=1"],
            {},
            "^reward_model.module.lr is set, but stage=reward does not run",
        ),
        (["stage=sft", "+ppo.trainer.limit_val_batches=1"], {}, "^ppo.trainer.limit_val_batches is set, but stage=ppo"),
        (
            ["model.config.vocab_size=9", "model.pretrained=mine"],
            {},
            "^model.config.vocab_size is set, but model.pretr",
        ),
        ([], {"model": "gpt2/small"}, "^model=gpt2/small with experiment=demo, .* add experiment=none"),
    ],
)
def test_a_setting_without_an_effect_is_named(overrides: list[str], choices: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(*overrides, **choices)


@pytest.mark.parametrize(
    ("overrides", "choices"),
    [
        (["reward_model.module.lr=1", "ppo.module.lr=1"], {}),
        (["stage=sft", "sft.module.lr=1", "model.config.vocab_size=900", "data.max_length=64"], {}),
        ([], {"model": "gpt2/small", "experiment": "none"}),
        # A recipe contains settings of stages that do not run; the user has not set them.
        (["stage=dpo"], {}),
    ],
)
def test_other_settings_pass(overrides: list[str], choices: dict[str, str]) -> None:
    checked(*overrides, **choices)


def plan_checked(*overrides: str, **chosen: str) -> None:
    choices = {"model": "llama/13b", "experiment": "none", "data": "demo"} | chosen
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("plan", [*(f"{name}={option}" for name, option in choices.items()), *overrides])
    check_plan(config, overrides, choices)


@pytest.mark.parametrize(
    ("overrides", "missing"),
    [([], "prompt_length and response_length"), (["prompt_length=9"], "response_length")],
)
def test_a_plan_of_another_model_does_not_take_the_lengths_of_the_demo(overrides: list[str], missing: str) -> None:
    with pytest.raises(UserError, match=f"^model=llama/13b: {missing} must be given"):
        plan_checked(*overrides)


@pytest.mark.parametrize(
    ("overrides", "choices"),
    [
        (["prompt_length=9", "response_length=9"], {}),
        ([], {"data": "files"}),
        # The user wants these data, or a recipe does.
        (["data=demo"], {}),
        ([], {"experiment": "smollm2_sentiment", "model": "smollm2/135m"}),
        ([], {"model": "demo", "experiment": "demo"}),
    ],
)
def test_a_plan_that_has_lengths_passes(overrides: list[str], choices: dict[str, str]) -> None:
    plan_checked(*overrides, **choices)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("reward_model.module.lr=1", "^reward_model.module.lr is set, but stage=reward does not run here"),
        ("+data.pth=x", "^data.pth: there is no such setting; did you mean data.path"),
        ("+promt_length=9", "^promt_length: there is no such setting, and no other setting refers to it"),
        ("+strategy.stage=3", "^strategy.stage: there is no such setting"),
    ],
)
def test_a_plan_refuses_a_setting_without_an_effect(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_checked(override, "stage=sft", model="demo", experiment="demo")


@pytest.mark.parametrize(
    "overrides",
    [
        ["+rate=0.1", "sft.module.lr=${rate}"],
        ["+rate.sft=0.1", "sft.module.lr=${rate.sft}"],
        ["+rate={sft: 0.1}", "sft.module.lr=${rate.sft}"],
        ["+rate.value=0.1", "+sft.module.options=${rate}"],
        ["+rate=0.1", "sft.module.lr=${oc.select:rate,0.2}"],
        ["+rates={small: 0.1}", "sft.module.lr=${rates[small]}"],
        ["+rates.small.sft=0.1", "sft.module.lr=${rates.small[sft]}"],
        ["+rates.small=0.1", "sft.module.lr='${rates.${size}}'", "+size=small"],
        ["+size=small", "+rates.small=0.1", "sft.module.lr='${rates[${size}]}'"],
        ["+rates=[0.1, 0.2]", "sft.module.lr=${rates[1]}"],
        ["+my-rate=0.1", "sft.module.lr=${my-rate}"],
        ["+rates.one=0.1", "+rates.two=${.one}", "sft.module.lr=${rates.two}"],
        ["+rate=0.1", "sft.module.lr=${...rate}"],
    ],
)
def test_a_setting_of_the_user_that_another_refers_to_has_an_effect(overrides: list[str]) -> None:
    plan_checked(*overrides, "stage=sft", model="demo", experiment="demo")
    checked(*overrides, "stage=sft")
    # Without the reference, the same setting is refused.
    key = overrides[0].removeprefix("+").partition("=")[0]
    with pytest.raises(UserError, match=f"^{key}: there is no such setting, and no other setting refers to it$"):
        checked(overrides[0], "stage=sft")


# The configuration has ${seed}, ${data.path} and the resolver ${full_lr:...}.
@pytest.mark.parametrize("key", ["see", "dat", "full_lr", "seed_of_mine"])
def test_a_setting_of_which_a_reference_only_has_the_letters_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}: there is no such setting"):
        checked(f"+{key}=3", "stage=sft")


@pytest.mark.parametrize("package", ["", "@_global_", "@mine"])
def test_an_option_of_a_group_of_the_user_is_no_setting(package: str, tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "big.yaml").write_text("# @package _global_\nseed: 77\n")
    override = f"+recipe{package}=big"
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        search = f"hydra.searchpath=[file://{tmp_path}]"
        config = compose("train", [search, "model=tiny", override], return_hydra_config=True)
    check_command_line(config, [override], config.hydra.runtime.choices)
    # Only the option is known, not what has the name of the group.
    with pytest.raises(UserError, match="^recipe.seed: there is no such setting"):
        check_command_line(config, ["+recipe.seed=1"], config.hydra.runtime.choices)


@pytest.mark.parametrize("command", ["train", "plan", "doctor", "benchmark"])
def test_the_sections_are_all_keys_that_a_command_composes_from_its_options(command: str) -> None:
    # One option of each group, and all stages. A benchmark has one stage.
    chosen = [f"{group}={options(group)[-1]}" for group in groups_of(command) if group != "stage"]
    chosen += [f"stage={name}" for name in options("stage")]
    found: set[str] = set()
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        for choice in chosen:
            # An option without settings leaves an empty section, which nothing reads.
            found |= {str(key) for key, value in compose(command, [choice]).items_ex(resolve=False) if value != {}}
    assert sections(command) == found


@pytest.mark.parametrize("override", ["+minibatch_size=16", "+warmup=3", "+device_memory=8", "+prompt_length=9"])
def test_a_setting_of_another_command_is_refused(override: str) -> None:
    key = override[1:].partition("=")[0]
    with pytest.raises(UserError, match=f"^{key}: there is no such setting"):
        checked(override, "stage=sft")
