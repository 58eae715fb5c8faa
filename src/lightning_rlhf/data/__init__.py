"""Turns files into batches: reading, rendering, and the Lightning data module of each stage."""

from lightning_rlhf.data.preference import PreferenceDataModule
from lightning_rlhf.data.prompts import PromptDataModule
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.sft import SFTDataModule
from lightning_rlhf.data.splits import Reading

__all__ = ["PreferenceDataModule", "PromptDataModule", "Reading", "Renderer", "SFTDataModule"]
