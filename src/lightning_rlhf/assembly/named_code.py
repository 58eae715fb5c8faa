"""Refuses configurations that name code which neither this package knows nor the user has named.

A configuration may come from somebody else: by `--config-dir`, or in a folder that one has downloaded. Hydra calls
whatever stands behind `_target_`, `logging` calls what stands behind `()` and `class`, and this package imports what
stands in a text such as `module:function`. What the user types on the command line is the user's own.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_rlhf.assembly.passwords import check_urls
from lightning_rlhf.errors import UserError, raise_problems

ALLOW = "LIGHTNING_RLHF_ALLOW_CODE"
"""Environment variable with further packages, modules or callables that a configuration may name, between commas."""

_ROOMS = "callbacks|chat_models|data|demo|models|modules|randomwalks|rewards|rollout|strategies|synthesis"
_CLASS = r"(\w+\.)*[A-Z]\w*"
# What the configuration of this package and its documentation build. Methods and re-exported modules are not among it:
# `check_definition` looks at where a callable is defined.
_TARGETS = re.compile(
    rf"lightning_rlhf\.(({_ROOMS})(\.\w+)+|[A-Z]\w*)"
    rf"|lightning\.pytorch\.(Trainer|(callbacks|loggers|strategies|plugins|profilers)\.{_CLASS})"
    rf"|torch\.optim\.{_CLASS}|bitsandbytes\.optim\.{_CLASS}"
)
_FOR_HYDRA = re.compile(
    rf"(hydra\._internal\.core_plugins|hydra_plugins\.hydra_(joblib|submitit)_launcher)\.{_CLASS}"
    r"|lightning_rlhf\.assembly\.sweep\.SweepTable"
)
_FOR_SEARCH = "lightning_rlhf.assembly.search.Search"
_FOR_LOGGING = re.compile(rf"logging\.{_CLASS}|colorlog\.{_CLASS}")
_DEFINED = re.compile(rf"(lightning_rlhf\.({_ROOMS}|assembly)|lightning\.pytorch|torch\.optim)(\.|$)")
_FUNCTION = re.compile(r"([^\W\d][\w.]*):[^\W\d]\w*")
# These resolvers make settings out of text, in which nothing can be found before they do so.
_MAKES_SETTINGS = re.compile(r"\$\{\s*oc\.(create|decode)\s*:")


def guard_compositions() -> None:
    """Makes Hydra check each configuration that it composes, before it builds its own parts from it.

    The method is replaced, because Hydra calls nobody between the two.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    compose: Callable[..., DictConfig] = ConfigLoaderImpl.load_configuration
    if hasattr(compose, "__wrapped__"):
        return

    @wraps(compose)
    def checked(self: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *args: Any, **kw: Any) -> Any:
        config = compose(self, config_name, overrides, *args, **kw)
        check_code(config, overrides)
        check_urls(config)
        return config

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]


def check_code(config: DictConfig, typed: Sequence[str]) -> None:
    """Checks the code that a configuration names.

    Args:
        config: A composed configuration, resolved or not.
        typed: The overrides of the command line. What they name is allowed.

    Raises:
        UserError: If the configuration names other code. The message names all of it, and how to allow it.
    """
    names = [name for name in os.environ.get(ALLOW, "").split(",") if name]

    def is_allowed(code: str) -> bool:
        return any(code == name or code.startswith(f"{name}.") for name in names) or any(code in one for one in typed)

    plain = OmegaConf.to_container(config, resolve=False)
    raise_problems(
        f"{place}={value}: {what} that this package does not know: if you trust the configuration, type the setting "
        f"on the command line, or allow it with the environment variable {ALLOW}={code}"
        for place, value, what, code in _named(config, plain, "")
        if not is_allowed(code)
    )


def check_definition(target: str, built: object) -> None:
    """Checks that a target of this package is not something that one of its modules has only imported.

    Args:
        target: Dotted name of the target.
        built: What the name stands for.

    Raises:
        UserError: If it is defined elsewhere.
    """
    home = getattr(built, "__module__", None) or ""
    own = ".".join(target.split(".")[:2])
    if own.startswith("lightning_rlhf.") and not _DEFINED.match(home) and not f"{home}.".startswith(f"{own}."):
        raise UserError(f"_target_={target}: this is defined in {home or 'no module'}; name it there")


def _named(config: DictConfig, node: object, place: str) -> Iterator[tuple[str, object, str, str]]:
    """Places, values and kinds of everything that names code, with the name of the code."""
    if isinstance(node, list):
        for index, child in enumerate(node):
            yield from _named(config, child, f"{place}[{index}]")
    if not isinstance(node, dict):
        return
    for key, child in node.items():
        at = f"{place}.{key}" if place else str(key)
        yield from _named(config, child, at)
        if isinstance(child, str):
            yield from ((at, child, *found) for found in _in_text(config, at, str(key), child))
        elif key == "trust_remote_code" and child is True:
            yield at, child, "the model brings code", "trust_remote_code"


def _in_text(config: DictConfig, place: str, key: str, text: str) -> Iterator[tuple[str, str]]:
    """Kind and name of the code in a text."""
    if _MAKES_SETTINGS.search(text):
        yield "makes settings from text", text
        return
    if "${" in text:
        text = _resolved(config, place, text)
    if key == "trust_remote_code" and text.lower() == "true":
        yield "the model brings code", "trust_remote_code"
    elif place.startswith(("hydra.job_logging", "hydra.hydra_logging")):
        if key in ("()", "class") and not _FOR_LOGGING.fullmatch(text):
            yield "a callable", text
    elif key == "_target_":
        known = _FOR_HYDRA if place.startswith("hydra.") else _TARGETS
        if not known.fullmatch(text) and not (place == "search._target_" and text == _FOR_SEARCH):
            yield "a callable", text
    elif key != "model" and (match := _FUNCTION.fullmatch(text)) and not text.startswith("lightning_rlhf."):
        # `model` is a chat model, such as `openai:o1`.
        yield "a function of a module", match[1]


def _resolved(config: DictConfig, place: str, text: str) -> str:
    try:
        return str(OmegaConf.select(config, place))
    except OmegaConfBaseException:
        return text
