"""The models in a module, and their transformer blocks: units that are gathered, compiled or recomputed as a whole."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel


def blocks(net: nn.Module) -> list[nn.Module]:
    """Finds the transformer blocks of all Hugging Face models in a module, by the class names that the models state.

    Args:
        net: A model, or a module that contains models.
    """
    names = {name for module in net.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in net.modules() if type(module).__name__ in names]


def models_in(module: nn.Module) -> Iterator[nn.Module]:
    """Finds the models in a module: its outermost parts that are called as a whole.

    A part is a model if it is a Hugging Face model, has weights of its own (a `ScalarModel` has its bias), or has the
    attribute `is_one_net`.
    """
    for part in module.children():
        has_weights = next(part.parameters(recurse=False), None) is not None
        if isinstance(part, PreTrainedModel) or has_weights or hasattr(part, "is_one_net"):
            yield part
        else:
            yield from models_in(part)
