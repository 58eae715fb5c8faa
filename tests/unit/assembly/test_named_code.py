"""Configurations from untrusted hands run no code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from support import command

from lightning_rlhf.assembly.named_code import ALLOW, check_code, check_definition, guard_compositions
from lightning_rlhf.errors import UserError
from lightning_rlhf.user_code import import_module

ATTACKS: dict[str, Any] = {
    "a system call": {"callbacks": {"own": {"_target_": "os.system", "command": "true"}}},
    "a method that unpickles": {"a": [{"_target_": "lightning.pytorch.LightningModule.load_from_checkpoint"}]},
    "a module behind ours": {"a": {"_target_": "lightning_rlhf.cli.app.os.system"}},
    "pickles": {"a": {"b": {"_target_": "torch.load", "f": "x.pt", "weights_only": False}}},
    "a function that imports": {"a": {"_target_": "lightning_rlhf.user_code.import_module", "name": "x"}},
    "a text that names a function": {"reward": {"function": "subprocess:run"}},
    "a text in two parts": {"a": "subprocess", "reward": {"function": "${a}:run"}},
    "a target in two parts": {"a": "os", "b": {"_target_": "${a}.system"}},
    "a target that is known later": {"b": {"_target_": "${hydra:job.name}.system"}},
    "settings made of text": {"a": '${oc.create:"{_target_: os.system}"}'},
    "code of a model": {"model": {"trust_remote_code": True}},
    "code of a model in two parts": {"a": True, "model": {"trust_remote_code": "${a}"}},
    "a launcher": {"hydra": {"launcher": {"_target_": "lightning_rlhf.callbacks.Export"}}},
    "a log handler": {"hydra": {"job_logging": {"handlers": {"x": {"()": "os.system", "command": "true"}}}}},
    "the class of a log handler": {"hydra": {"hydra_logging": {"handlers": {"x": {"class": "subprocess.Popen"}}}}},
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_code_that_nobody_has_typed_is_refused(attack: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"that this package does not know|model brings code: .*{ALLOW}=|from text"):
        check_code(OmegaConf.create(attack), ["stage=sft", "model=tiny"])


@pytest.mark.parametrize(
    "overrides",
    [[], ["stage=pipeline"], ["strategy=deepspeed_zero2"], ["reward=judge"], ["optim=adamw_8bit", "adapter=lora"]],
)
def test_the_configurations_of_this_package_pass(overrides: Sequence[str]) -> None:
    with initialize_config_module("lightning_rlhf.conf", version_base="1.3"):
        config = compose("train", [*overrides, "run_dir=''"], return_hydra_config=True)
    check_code(config, overrides)


def test_what_is_typed_or_allowed_by_name_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    config = OmegaConf.create({"a": {"_target_": "mine.callbacks.Mine"}, "reward": {"function": "own:polite"}})
    check_code(config, ["+a._target_=mine.callbacks.Mine", "reward.function=own:polite"])
    with pytest.raises(UserError) as refused:
        check_code(config, ["+a._target_=mine.callbacks.Mine"])
    assert str(refused.value).startswith(
        "reward.function=own:polite: a function of a module that this package does not"
    )
    monkeypatch.setenv(ALLOW, "mine,own")
    check_code(config, [])
    monkeypatch.setenv(ALLOW, "mi,own")
    with pytest.raises(UserError, match="_target_=mine"):
        check_code(config, [])


def test_a_chat_model_is_no_function_of_a_module() -> None:
    check_code(OmegaConf.create({"judge": {"model": "openai:o1"}, "url": "http://a:80", "name": "a:b c"}), [])


def test_a_target_of_this_package_is_defined_in_it() -> None:
    check_definition("lightning_rlhf.PPOModule", __import__("lightning_rlhf").PPOModule)
    with pytest.raises(UserError, match=r"_target_=lightning_rlhf.rewards.function.import_module: this is defined in"):
        check_definition("lightning_rlhf.rewards.function.import_module", import_module)


def test_hydra_builds_nothing_of_a_configuration_that_is_refused(tmp_path: Path) -> None:
    """Also its own callbacks and its log handlers, which it builds before the command begins."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    canary = tmp_path / "canary"
    attack = f"{{_target_: os.mkdir, path: '{canary}'}}"
    for name, node in {
        "callback": f"hydra: {{callbacks: {{own: {attack}}}}}",
        "logging": f"hydra: {{job_logging: {{version: 1, handlers: {{x: {{(): os.mkdir, path: '{canary}'}}}}}}}}",
        "data": f"data: {{write: {attack}}}",
    }.items():
        (tmp_path / f"conf/experiment/{name}.yaml").write_text(f"# @package _global_\n{node}\n")
        for more in ([], ["-m"]):
            done = command(tmp_path, *more, "--config-dir=conf", f"experiment={name}", "stage=sft", "model=tiny")
            assert (done.returncode, ALLOW in done.stderr) == (2, True), done.stderr
            assert "Traceback" not in done.stderr
            assert sorted(path.name for path in tmp_path.iterdir()) == ["conf"]


def test_the_guard_is_set_once() -> None:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    guard_compositions()
    first = ConfigLoaderImpl.load_configuration
    guard_compositions()
    assert ConfigLoaderImpl.load_configuration is first
