"""Marks the functions and classes in a configuration that load a reward model."""

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

Loader = TypeVar("Loader", bound=Callable[..., object])


@runtime_checkable
class LoadsRewardModel(Protocol):
    """A function or class that loads a reward model from the folder that its argument `path` names.

    A run recognises its reward models by the attribute `as_adapter`. It fills in the path of the reward model that it
    trains itself, and can start the critic from a reward model. A class defines the attribute and passes it on to its
    subclasses; a function gets it from `loads_reward_model`.
    """

    as_adapter: type | None
    """Class that replaces the loader if the model is an adapter of the model that plays all roles; or None."""


def loads_reward_model(as_adapter: type | None = None) -> Callable[[Loader], Loader]:
    """Marks a function as one that loads a reward model; see `LoadsRewardModel`.

    Args:
        as_adapter: Class that replaces the function if the reward model is an adapter of the model that plays all
            roles. It is called with `path`, `template` and `setting`. None if the function loads a model then too.

    Example:
        >>> @loads_reward_model()
        ... def load_half(path: str, template: str | None = None) -> LoadedReward:
        ...     return load_reward(path, "float16", template)
    """

    def mark(loader: Loader) -> Loader:
        loader.as_adapter = as_adapter  # type: ignore[attr-defined]
        return loader

    return mark
