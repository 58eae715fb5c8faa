"""Responses in words."""

import torch

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.experience import Sequences
from lightning_rlhf.rollout.engines.engine import FinishReason


def decode(sequences: Sequences, renderer: Renderer) -> list[str]:
    """Texts of the responses."""
    return [
        renderer.decode(ids[mask].tolist())
        for ids, mask in zip(sequences.responses.cpu(), sequences.response_mask.cpu(), strict=True)
    ]


def finish_reason(finished: torch.Tensor | bool) -> FinishReason:
    """Why a response ended: `stop` at a stop token, `length` at the limit."""
    return "stop" if finished else "length"
