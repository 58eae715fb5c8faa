"""The settings of a benchmark, which are checked before torch is imported."""

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from lightning_rlhf.assembly.benchmark_settings import BenchmarkSettings, check_benchmark
from lightning_rlhf.errors import UserError


def configured(*overrides: str) -> DictConfig:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("benchmark", ["run_dir=run", *overrides])


def test_prompts_have_one_length_unless_there_is_a_lower_bound() -> None:
    assert BenchmarkSettings.of(configured("prompt_length=48")).min_prompt_length == 48
    assert BenchmarkSettings.of(configured("prompt_length=48", "min_prompt_length=8")).min_prompt_length == 8


def test_one_iteration_beside_the_measured_ones_measures_the_memory() -> None:
    assert BenchmarkSettings.of(configured("warmup=2", "repeats=5")).iterations == 8


def test_settings_of_a_benchmark_are_those_of_the_run() -> None:
    config = configured("rollout_batch_size=16", "minibatch_size=4", "ppo_epochs=3", "response_length=24")
    module = config.ppo.module
    assert (module.rollout_batch_size, module.minibatch_size, module.ppo_epochs) == (16, 4, 3)
    assert module.sampling.max_new_tokens == 24
    # Weights are random, whatever the size would load.
    assert configured("model=gpt2/small").model.pretrained is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompt_length=0", "prompt_length=0: must be a positive whole number"),
        ("repeats=1.5", "repeats=1.5: must be a positive whole number"),
        ("warmup=-1", "warmup=-1: must be a whole number that is not negative"),
        ("min_prompt_length=33", "min_prompt_length=33: must lie between 1 and prompt_length=32"),
        ("length_distribution=uniform", "length_distribution=uniform: expected fixed or geometric"),
        ("reward_model=yes", "reward_model=yes: expected true or false"),
        (
            "ppo.module.ppo_epochs=2",
            "ppo.module.ppo_epochs: in a benchmark ppo_epochs takes its place: set ppo_epochs=",
        ),
        ("data.max_length=9", "data.max_length: a benchmark has no data, callbacks, loggers and checkpoints"),
        ("logger=csv", "logger: a benchmark has no data"),
        ("dry_run=true", "dry_run: a benchmark has no data"),
        ("stage=sft", "stage=sft: a benchmark measures iterations of PPO: leave out stage="),
        ("minibatch_size=5", "minibatch_size=5"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(override: str, message: str) -> None:
    config = configured(override)
    with pytest.raises(UserError) as error:
        check_benchmark(config, [override], {"stage": override.partition("stage=")[2] or "ppo", "model": "tiny"})
    assert message in str(error.value)


def test_all_wrong_values_are_named_together() -> None:
    overrides = ["repeats=0", "response_length=0"]
    with pytest.raises(UserError) as error:
        BenchmarkSettings.of(configured(*overrides))
    assert len(str(error.value).splitlines()) == 2
