"""The repeated blocks of a net: what is gathered, compiled and computed again as one."""

from torch import nn


def blocks(net: nn.Module) -> list[nn.Module]:
    """The transformer blocks of all Hugging Face nets in a module, by the class names that those nets give.

    Args:
        net: A net, or a module that holds some.
    """
    names = {name for module in net.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    return [module for module in net.modules() if type(module).__name__ in names]
