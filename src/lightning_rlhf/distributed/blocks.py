"""The nets of a module and their repeated blocks: what is gathered, compiled and computed again as one."""

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel


def blocks(net: nn.Module) -> list[nn.Module]:
    """The transformer blocks of all Hugging Face nets in a module, by the class names that those nets give.

    Args:
        net: A net, or a module that holds some.
    """
    names = {name for module in net.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in net.modules() if type(module).__name__ in names]


def nets(module: nn.Module) -> Iterator[nn.Module]:
    """The nets in a module: the outermost parts that are called as a whole.

    They are Hugging Face's models, and whatever has weights of its own, such as a model with one of these in it, or
    says `is_one_net`.
    """
    for part in module.children():
        has_weights = next(part.parameters(recurse=False), None) is not None
        if isinstance(part, PreTrainedModel) or has_weights or hasattr(part, "is_one_net"):
            yield part
        else:
            yield from nets(part)
