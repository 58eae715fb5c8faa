"""RLHF with PyTorch Lightning: supervised fine-tuning, reward modelling and PPO as LightningModules.

The public names are listed in `__init__.pyi`. Importing the package costs nothing: a name is imported on first use.
"""

import lazy_loader

_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    """Imports a public name, or reads the version of what is installed."""
    if name == "__version__":
        from importlib.metadata import version  # which would take most of the time of importing this package

        return version("lightning-rlhf")
    return _import(name)
