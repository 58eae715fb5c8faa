"""Turns files into batches: reading, rendering, and the Lightning data module of each stage."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_rlhf.data.preference import PreferenceDataModule
    from lightning_rlhf.data.prompts import PromptDataModule
    from lightning_rlhf.data.render import Renderer
    from lightning_rlhf.data.sft import SFTDataModule
    from lightning_rlhf.data.splits import Reading

__all__ = ["PreferenceDataModule", "PromptDataModule", "Reading", "Renderer", "SFTDataModule"]

_HOME = {
    "PreferenceDataModule": "preference",
    "PromptDataModule": "prompts",
    "Reading": "splits",
    "Renderer": "render",
    "SFTDataModule": "sft",
}


def __getattr__(name: str) -> object:
    """Imports a name when it is first used, so that files can be looked at without torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
