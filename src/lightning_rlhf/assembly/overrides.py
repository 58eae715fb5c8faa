"""Overrides of the command line: checks those alone, because a recipe may hold settings of all stages; quotes them."""

from collections.abc import Iterator, Mapping, Sequence

from omegaconf import DictConfig, OmegaConf

from lightning_rlhf.assembly.config_files import sections
from lightning_rlhf.assembly.named_code import check_code
from lightning_rlhf.assembly.problems import Problems
from lightning_rlhf.assembly.settings import check_effects, check_settings, is_read, references_in
from lightning_rlhf.assembly.sweep_overrides import block_of
from lightning_rlhf.stages import STAGES


def check_command_line(
    config: DictConfig,
    overrides: Sequence[str],
    choices: Mapping[str, str | None],
    command: str = "train",
    found: Sequence[str] = (),
) -> None:
    """Checks what can be checked without torch: that every override has an effect, and that the settings fit together.

    Args:
        config: The composed configuration.
        overrides: The overrides, such as `sft.module.lr=1e-3`.
        choices: The chosen option of each group, such as `demo` of `model`.
        command: The command, whose settings are known.
        found: Mistakes that were found before.

    Raises:
        UserError: If the recipe of the demo is used with another model, an override is for a stage that does not run or
            for an architecture that is not built, or settings are wrong, or if the configuration names code that is not
            allowed. The message names all mistakes.
    """
    problems = _override_problems(config, overrides, choices, command, found)
    check_settings(config, problems)
    problems.report()


def check_overrides(config: DictConfig, overrides: Sequence[str], choices: Mapping[str, str | None]) -> None:
    """Checks only that every override has an effect; `doctor` examines the settings itself. See `check_command_line`.

    Raises:
        UserError: If an override has none. The message names all.
    """
    problems = _override_problems(config, overrides, choices, "doctor")
    check_effects(config, problems)
    problems.report()


def check_plan(config: DictConfig, overrides: Sequence[str], choices: Mapping[str, str | None]) -> None:
    """Checks that every override of a plan has an effect, and that the lengths of rows are known.

    A plan does not read learning rates, so the recipe of the demo suits any model.

    Raises:
        UserError: If an override has no effect, or neither the user nor a recipe has chosen data, and the lengths are
            not given. The message names all mistakes.
    """
    problems = Problems()
    for message in (
        *_without_effect(config, overrides, choices, "plan"),
        *_unknown_lengths(config, overrides, choices),
    ):
        problems.add(message)
    check_effects(config, problems)
    problems.report()


def _override_problems(
    config: DictConfig,
    overrides: Sequence[str],
    choices: Mapping[str, str | None],
    command: str,
    found: Sequence[str] = (),
) -> Problems:
    # What Hydra's own interpolations stand for is known only now.
    check_code(config, overrides)
    problems = Problems()
    for message in found:
        problems.add(message)
    if choices.get("experiment") == "demo" and choices.get("model") not in ("demo", "tiny"):
        problems.add(
            f"model={choices.get('model')} with experiment=demo, whose learning rates are for a model of 2 million "
            "parameters: add experiment=none"
        )
    for message in _without_effect(config, overrides, choices, command):
        problems.add(message)
    return problems


def _without_effect(
    config: DictConfig, overrides: Sequence[str], choices: Mapping[str, str | None], command: str
) -> Iterator[str]:
    """Messages about the overrides that have no effect."""
    references = references_in(OmegaConf.to_container(config, resolve=False))
    # Each model size has an architecture as well as weights, so Hydra accepts settings of the architecture.
    loaded = next((name for name in ("meta_dir", "pretrained") if config.model.get(name) is not None), None)
    idle = {record.block: record.name for record in STAGES.values() if record.name not in config.stages}
    for override in overrides:
        key = override.lstrip("+~").split("=")[0]
        # An option of a group of the user is no setting.
        added = override[0] == "+" and key not in choices
        if added and not is_read(key, references) and key.split(".")[0] not in sections(command):
            yield f"{key}: there is no such setting, and no other setting refers to it"
        if (block := block_of(override)) in idle:
            yield f"{key} is set, but stage={idle[block]} does not run here"
        if loaded and key.split(".")[:2] in (["model", "config"], ["model", "config_tokenizer"]):
            yield (
                f"{key} is set, but model.{loaded}={config.model[loaded]} has its own architecture and tokenizer; "
                "model.pretrained=null builds model.config with random weights; model.tokenizer names another tokenizer"
            )


def _unknown_lengths(config: DictConfig, overrides: Sequence[str], choices: Mapping[str, str | None]) -> Iterator[str]:
    """A message if a plan for a model of the user would take the lengths of the embedded demo."""
    ours = choices.get("model") in ("demo", "tiny") or choices.get("experiment") not in ("demo", "none")
    chosen = choices.get("data") != "demo" or "data=demo" in overrides
    missing = [name for name in ("prompt_length", "response_length") if config[name] is None]
    if missing and not (ours or chosen):
        yield (
            f"model={choices.get('model')}: {' and '.join(missing)} must be given, because no data say how long rows "
            "are: add prompt_length=512 response_length=512, or data=files; data=demo takes the lengths of the demo"
        )
