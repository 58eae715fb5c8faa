"""Overrides of the command line: checks those alone, because a recipe may hold settings of all stages; quotes them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig

from lightning_rlhf.errors import UserError
from lightning_rlhf.stages import STAGES


def check_command_line(config: DictConfig, overrides: Sequence[str], choices: Mapping[str, str | None]) -> None:
    """Checks that every override has an effect, and that none belongs to another model.

    Args:
        config: The composed configuration.
        overrides: The overrides, such as `sft.module.lr=1e-3`.
        choices: The chosen option of each group, such as `demo` of `model`.

    Raises:
        UserError: If the recipe of the demo is used with another model, or an override is for a stage that does not
            run or for an architecture that is not built.
    """
    if choices.get("experiment") == "demo" and choices.get("model") not in ("demo", "tiny"):
        raise UserError(
            f"model={choices.get('model')} with experiment=demo, whose learning rates are for a model of 2 million "
            "parameters: add experiment=none"
        )
    # Each model size has an architecture as well as weights, so Hydra accepts settings of the architecture.
    loaded = next((name for name in ("meta_dir", "pretrained") if config.model.get(name) is not None), None)
    idle = {record.block: record.name for record in STAGES.values() if record.name not in config.stages}
    for override in overrides:
        key = override.lstrip("+~").split("=")[0]
        if (block := key.split(".")[0]) in idle:
            raise UserError(f"{key} is set, but stage={idle[block]} does not run here")
        if loaded and key.split(".")[:2] in (["model", "config"], ["model", "config_tokenizer"]):
            raise UserError(
                f"{key} is set, but model.{loaded}={config.model[loaded]} has its own architecture and tokenizer; "
                "model.pretrained=null builds model.config with random weights; model.tokenizer names another tokenizer"
            )


def check_lengths_are_known(config: DictConfig, overrides: Sequence[str], choices: Mapping[str, str | None]) -> None:
    """Checks that a plan for a model of the user does not take the lengths of the embedded demo.

    Args:
        config: The composed configuration of `plan`.
        overrides: The overrides.
        choices: The chosen option of each group.

    Raises:
        UserError: If neither the user nor a recipe has chosen data, and the lengths are not given.
    """
    ours = choices.get("model") in ("demo", "tiny") or choices.get("experiment") not in ("demo", "none")
    chosen = choices.get("data") != "demo" or "data=demo" in overrides
    missing = [name for name in ("prompt_length", "response_length") if config[name] is None]
    if missing and not (ours or chosen):
        raise UserError(
            f"model={choices.get('model')}: {' and '.join(missing)} must be given, because no data say how long rows "
            "are: add prompt_length=512 response_length=512, or data=files; data=demo takes the lengths of the demo"
        )


def as_override(key: str, value: str) -> str:
    """An override that sets a text, quoted for Hydra if its grammar would read the text otherwise.

    A shell may need further quotes.
    """
    plain = f"{key}={value}"
    with suppress(HydraException):
        if OverridesParser.create().parse_override(plain).value() == value:
            return plain
    return f"{key}={QuotedString(value, Quote.single).with_quotes()}"
