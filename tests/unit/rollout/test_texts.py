"""Responses as texts."""

from collections.abc import Callable

import torch

from lightning_rlhf.data.render import Renderer
from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.rollout.texts import decode, finish_reason


def test_a_response_reads_without_prompt_padding_and_stop_token(
    make_source: Callable[..., ModelSource], make_sequences: Callable[..., Sequences]
) -> None:
    renderer = Renderer(make_source().load_tokenizer())
    texts = ["My kettle leaks", "Hello"]
    ids = [renderer.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    sequences = make_sequences([[11, 12], [13]], [[*row, renderer.stop_ids[0]] for row in ids], right=2, filler=14)
    assert decode(sequences, renderer) == texts


def test_a_response_that_did_not_stop_was_cut_at_the_limit() -> None:
    assert [finish_reason(finished) for finished in torch.tensor([True, False])] == ["stop", "length"]
