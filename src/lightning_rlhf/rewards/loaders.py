"""What makes a function or a class of a configuration one that loads a reward model."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

Loader = TypeVar("Loader", bound=Callable[..., Any])


@runtime_checkable
class LoadsRewardModel(Protocol):
    """Loads a reward model from the folder that its argument `path` names.

    A run finds its reward models by this attribute: it fills in the path of the one that it trains, and starts the
    critic from one. A subclass has the attribute from its class, and a function from `loads_reward_model`.
    """

    as_adapter: type | None
    """What takes its place if the model is an adapter of the net that plays all roles; None: nothing does."""


def loads_reward_model(as_adapter: type | None = None) -> Callable[[Loader], Loader]:
    """Marks a function that loads a reward model, see `LoadsRewardModel`.

    Args:
        as_adapter: A class that takes the place of the function if the model is an adapter of the net that plays all
            roles; it is given `path`, `template` and `setting`. None: the function loads a net of its own there too.

    Example:
        >>> @loads_reward_model()
        ... def load_half(path: str, template: str | None = None) -> LoadedReward:
        ...     return load_reward(path, "float16", template)
    """

    def mark(loader: Loader) -> Loader:
        loader.as_adapter = as_adapter  # type: ignore[attr-defined]
        return loader

    return mark
