"""Texts of responses."""

import torch

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.experience import Sequences
from lightning_rlhf.rollout.engines.engine import FinishReason


def decode(sequences: Sequences, renderer: Renderer) -> list[str]:
    """Decodes the responses into texts."""
    return [
        renderer.decode(ids[mask].tolist())
        for ids, mask in zip(sequences.responses.cpu(), sequences.response_mask.cpu(), strict=True)
    ]


def finish_reason(finished: torch.Tensor | bool) -> FinishReason:
    """Returns why a response ended: `stop` for a stop token, `length` for the length limit."""
    return "stop" if finished else "length"
