"""Every option of every group in conf/ composes, fits the signature of its target, and builds the target."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.utils import instantiate
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.config_files import groups_of, options
from lightning_rlhf.assembly.stage import PreparedStage, prepare
from lightning_rlhf.assembly.sweep import SweepTable
from lightning_rlhf.assembly.target_checks import check_targets
from lightning_rlhf.assembly.user_message import user_message
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.demo.gold import gold
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.export import export_model
from lightning_rlhf.models.scalar import ScalarModel, load_scalar_model
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.modules.arguments import read_arguments, remembers_arguments, save_arguments
from lightning_rlhf.modules.optim import Optim
from lightning_rlhf.stages import STAGES

CONF = Path(__file__).parents[1] / "conf"
OPTIONS: dict[str, list[str]] = {
    group.name: sorted(
        path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml") if path.stem != "base"
    )
    for group in sorted(CONF.iterdir())
    # The groups of `train`, and Hydra's own.
    if group.is_dir() and (group.name == "hydra" or group.name in groups_of("train"))
}
CHOICES = [f"{group}={option}" for group, options in OPTIONS.items() for option in options]
# Values that an option leaves for the user to fill in.
NEEDS = {
    "data=files": ["data.path=pkg://lightning_rlhf.demo/preferences_held_out.jsonl"],
    "data=randomwalks": ["stage=sft_ppo"],
    "experiment=smollm2_hh": ["data.path=pkg://lightning_rlhf.demo/preferences_held_out.jsonl"],
    "reward=function": ["reward.function=lightning_rlhf.demo.gold:gold"],
    "reward=http": ["reward.function.url=http://127.0.0.1:8000/score"],
    "reward=judge": ["reward.function.model=openai:gpt-4o-mini", "+reward.function.settings.api_key=none"],
    "reward=pattern": ["reward.function.pattern=sorry"],
    "reward=weighted": ["reward.parts.function.function=lightning_rlhf.demo.gold:gold"],
    "rollout=vllm_server": ["rollout.engine.urls=[http://127.0.0.1:8000]"],
    "strategy=deepspeed_zero3_nvme": ["trainer.strategy.nvme_path=disk"],
    "trainer=multinode": ["trainer.num_nodes=2"],
}
NEEDS_GPU = {"trainer=gpu", "trainer=multinode"}


def configured(*overrides: str) -> DictConfig:
    """Composes the configuration of `train`. Hydra does not know the folder of the run here, so it is given."""
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        return compose("train", ["run_dir=run", *overrides])


def chosen(choice: str) -> DictConfig:
    """Composes the configuration with one option, on a model that needs no download."""
    small = [] if choice.startswith("model=") else ["model=tiny"]
    return configured(*small, choice, *NEEDS.get(choice, []))


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    source: ModelSource = instantiate(configured("model=tiny").model)
    folder = tmp_path_factory.mktemp("reward") / "model"
    export_model(load_scalar_model(source, "normal"), Renderer(source.load_tokenizer()), folder, {})
    return str(folder)


def prepared(config: DictConfig, folder: Path, reward_model: str) -> list[PreparedStage]:
    """Prepares the stages of a configuration as a run does."""
    models = {"reward": Path(reward_model)}
    source: ModelSource = instantiate(config.model)
    renderer = Renderer(source.load_tokenizer(), config.data.template, stop_ids=source.stop_ids())
    return [prepare(config, name, folder / name, renderer, models) for name in config.stages]


def names(objects: Iterable[object]) -> set[str]:
    return {type(each).__name__ for each in objects}


def plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_composes_and_fits_what_it_calls(choice: str) -> None:
    check_targets(plain(chosen(choice)))


LLM_NEEDS = {"openai_compatible": ["llm.base_url=http://127.0.0.1:8000/v1", "llm.model=openai:some-model"]}


@pytest.mark.parametrize("command", ["generate_dataset", "score_dataset"])
@pytest.mark.parametrize("option", options("llm"))
def test_every_chat_model_composes_and_can_be_built(option: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "none")
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose(command, ["model=tiny", f"llm={option}", *LLM_NEEDS.get(option, [])])
    node = plain(config)["llm"]
    check_targets(node)
    client = instantiate(node)
    assert client.max_concurrency == config.llm.max_concurrency
    # Only a model of one's own is known to cost nothing.
    assert (client.budget.prices == (0, 0)) == (option in ("local", "ollama"))


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if not choice.startswith("model=")])
def test_every_option_builds_the_parts_of_its_stages(choice: str, tmp_path: Path, reward_model: str) -> None:
    config = chosen(choice)
    if choice in NEEDS_GPU and not torch.cuda.is_available():
        with pytest.raises(HydraException) as error:
            prepared(config, tmp_path, reward_model)
        assert "No supported gpu backend found" in (user_message(error.value) or "")
        return
    for stage in prepared(config, tmp_path, reward_model):
        block = config[stage.record.block]
        for part, node in [(stage.module, block.module), (stage.data, block.data), (stage.trainer, config.trainer)]:
            assert type(part).__name__ == node._target_.split(".")[-1]
        nodes = [*config.callbacks.values(), *block.callbacks.values()]
        assert names(stage.trainer.callbacks) >= {node._target_.split(".")[-1] for node in nodes}
        assert names(stage.trainer.loggers) == {node._target_.split(".")[-1] for node in config.logger.values()}


@pytest.mark.parametrize("option", ["tiny", "demo", "randomwalks"])
def test_a_model_of_ours_reads_its_own_tokenizer(option: str) -> None:
    source: ModelSource = instantiate(configured(f"model={option}").model)
    net, tokenizer = load_causal_lm(source), source.load_tokenizer()
    assert net.get_input_embeddings().num_embeddings == len(tokenizer)
    logits = net(torch.tensor([tokenizer("My kettle leaks.")["input_ids"]])).logits
    assert logits.isfinite().all()


@pytest.mark.parametrize("option", OPTIONS["data"])
def test_every_data_option_gives_rows_to_all_stages(option: str, tmp_path: Path, reward_model: str) -> None:
    for stage in prepared(chosen(f"data={option}"), tmp_path, reward_model):
        stage.data.trainer = stage.trainer
        stage.data.setup("fit")
        loaders = stage.data.val_dataloader()
        for loader in loaders if isinstance(loaders, list) else [loaders]:
            assert len(next(iter(loader))[0])
        rows = stage.data.train_prompts if stage.record.samples else stage.data.train_rows
        assert len(rows) >= 20


@pytest.mark.parametrize("option", [option for option in OPTIONS["logger"] if option != "none"])
def test_every_logger_writes_below_the_run_folder(
    option: str, tmp_path: Path, reward_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = configured("model=tiny", "stage=sft", f"logger={option}")
    (stage,) = prepared(config, tmp_path, reward_model)
    for name, logger in zip(config.logger, stage.trainer.loggers, strict=True):
        before = set(tmp_path.rglob("*"))
        logger.log_metrics({"loss": 1.0}, step=0)
        logger.finalize("success")
        assert set(tmp_path.rglob("*")) > before, name
    wandb.finish()


@pytest.mark.parametrize(("option", "expected"), [("single", SingleDeviceStrategy), ("ddp", DDPStrategy)])
def test_a_strategy_option_chooses_its_strategy(option: str, expected: type, tmp_path: Path, reward_model: str) -> None:
    (stage,) = prepared(configured("model=tiny", "stage=sft", f"strategy={option}"), tmp_path, reward_model)
    assert type(stage.trainer.strategy) is expected


@pytest.mark.parametrize("precision", ["16-mixed", "16"])
@pytest.mark.parametrize("option", ["single", "ddp"])
def test_another_precision_than_the_one_asked_for_is_an_error(
    option: str, precision: str, tmp_path: Path, reward_model: str
) -> None:
    """Lightning alone would only warn, and compute in bf16."""
    config = configured("model=tiny", "stage=sft", f"strategy={option}", f"trainer.precision={precision}")
    with pytest.raises(UserError, match=f"trainer.precision={precision}: .* would compute in bf16-mixed"):
        prepared(config, tmp_path, reward_model)


@pytest.mark.parametrize(
    ("option", "precision"),
    [
        *[("single", name) for name in ("32", "32-true", "bf16", "bf16-mixed", "bf16-true", "16-true", "64", "null")],
        # These strategies compute in fp16 as far as they can, or refuse it themselves.
        *[(option, "16-mixed") for option in ("fsdp", "deepspeed_zero2", "colossalai_zero2")],
    ],
)
def test_a_precision_by_any_of_its_names_is_taken(
    option: str, precision: str, tmp_path: Path, reward_model: str
) -> None:
    config = configured("model=tiny", "stage=sft", f"strategy={option}", f"trainer.precision={precision}")
    assert len(prepared(config, tmp_path, reward_model)) == 1


# Gemini's optimizer has kernels for GPUs only.
@pytest.mark.parametrize("option", [option for option in OPTIONS["optim"] if option != "hybrid_adam"])
def test_every_optimizer_takes_a_step_with_the_learning_rate_of_its_groups(option: str) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = instantiate(configured(f"optim={option}").optim.optimizer)([{"params": [weight], "lr": 0.5}])
    weight.sum().backward()
    optimizer.step()
    assert (weight < 1).all()


def test_a_reward_model_and_a_function_both_come_of_the_reward_group(reward_model: str) -> None:
    assert isinstance(instantiate(configured(f"reward.path={reward_model}").reward)().net, ScalarModel)
    function = instantiate(chosen("reward=function").reward)
    texts = ["My kettle leaks."], ["Tighten the seal"]
    assert function(*texts, [{}]) == gold(*texts)


@pytest.mark.parametrize("option", OPTIONS["hydra"])
def test_every_hydra_option_names_the_run_folder_after_the_stage(option: str) -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", [f"hydra={option}", "stage=sft"], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        assert config.hydra.run.dir.startswith("outputs/sft/")
        assert isinstance(instantiate(config.hydra.callbacks.sweep_table), SweepTable)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.module.clip=0.1", "there is no setting 'ppo.module.clip'"),
        ("ppo.module.loss.clip_ranges=0.1", "did you mean 'ppo.module.loss.clip_range'?"),
        ("ppo.module.loss.ratio=sequence", "it is now ppo.module.loss.policy=clipped or gspo"),
        (
            "ppo.module.loss.dual_clip=3",
            "now ppo.module.loss.policy=dual_clip +ppo.module.loss.options.dual_clip=VALUE",
        ),
        (
            "ppo.module.credit.options.level=0.5",
            "there is no setting 'ppo.module.credit.options.level' yet; +ppo.module.credit.options.level=VALUE adds it",
        ),
        ("trainers=cpu", "there is no setting 'trainers'; did you mean 'trainer'?"),
        ("model=tyni", "there is no model=tyni; there are bloom/176b, bloom/1b1"),
    ],
)
def test_what_does_not_compose_is_one_line(override: str, message: str) -> None:
    with pytest.raises(HydraException) as error:
        configured(override)
    line = user_message(error.value)
    assert line
    assert "\n" not in line
    assert message in line


def test_a_value_of_the_wrong_type_is_named_with_what_was_expected() -> None:
    wrong = plain(configured("ppo.module.minibatch_size=abc", "sft.data.loss_on=first", "seed=null"))
    with pytest.raises(UserError) as error:
        check_targets({"sft": wrong["sft"], "ppo": wrong["ppo"]})
    assert str(error.value).splitlines() == [
        "sft.module.seed=None: expected a whole number",
        "sft.data.loss_on=first: expected one of all, last",
        "sft.data.seed=None: expected a whole number",
        "ppo.module.minibatch_size=abc: expected a whole number",
        "ppo.module.seed=None: expected a whole number",
    ]


@pytest.mark.parametrize(("stage", "part"), [(stage, part) for stage in STAGES for part in ("module", "data")])
def test_a_misspelt_key_of_a_stage_is_found_whichever_it_is(stage: str, part: str) -> None:
    config = configured(f"stage={stage}")[STAGES[stage].block][part]
    for key in config:
        if key == "_target_":
            continue
        node = plain(config)
        node[f"{key}_"] = node.pop(key)
        with pytest.raises(UserError, match=rf"^x\.{key}_: .* has no such setting"):
            check_targets({"x": node})


@pytest.mark.parametrize("option", OPTIONS["optim"])
def test_a_checkpoint_describes_each_optimizer(option: str) -> None:
    class Module(LightningModule):
        @remembers_arguments
        def __init__(self, optim: Optim) -> None:
            super().__init__()

    optim = instantiate(plain(configured(f"optim={option}"))["sft"]["module"]["optim"], _convert_="all")
    checkpoint: dict[str, Any] = {}
    save_arguments(Module(optim), checkpoint)
    read = read_arguments(checkpoint, Module, "load", {})["optim"]
    assert read.optimizer.func is optim.optimizer.func
    assert read.optimizer.keywords == optim.optimizer.keywords
