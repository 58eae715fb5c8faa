"""Texts of responses."""

from collections.abc import Sequence

import torch

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.experience import Sequences
from lightning_rlhf.rollout.engines.engine import Decode, FinishReason


def decode(sequences: Sequences, renderer: Renderer) -> list[str]:
    """Decodes the responses into texts."""
    return [
        renderer.decode(ids[mask].tolist())
        for ids, mask in zip(sequences.responses.cpu(), sequences.response_mask.cpu(), strict=True)
    ]


def decoder(renderer: Renderer) -> Decode:
    """Returns the function that turns ids into the text that they stand for, with all its space and special tokens."""

    def decode_whole(ids: Sequence[int]) -> str:
        text = renderer.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    return decode_whole


def finish_reason(finished: torch.Tensor | bool) -> FinishReason:
    """Returns why a response ended: `stop` for a stop token, `length` for the length limit."""
    return "stop" if finished else "length"
