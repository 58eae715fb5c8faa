"""Rows of sequences and of experience, without the columns that no row uses."""

from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from lightning_rlhf.experience import Experience, Sequences

MakeSequences = Callable[..., Sequences]
PROMPTS = [[11, 12, 13, 14], [7], [21, 22]]
RESPONSES = [[30], [31, 32, 33], [34, 35]]


def contents(sequences: Sequences) -> list[tuple[list[int], list[int]]]:
    """Returns all real ids of each row, and those of its response."""
    return [
        (ids[mask].tolist(), response[response_mask].tolist())
        for ids, mask, response, response_mask in zip(
            sequences.input_ids, sequences.attention_mask, sequences.responses, sequences.response_mask, strict=True
        )
    ]


def test_responses_are_the_last_columns(make_sequences: MakeSequences) -> None:
    sequences = make_sequences([[1, 2], [3]], [[4], [5, 6]])
    assert sequences.responses.tolist() == [[4, 0], [5, 6]]


@given(index=st.lists(st.integers(0, 2), min_size=1, max_size=4), left=st.integers(0, 3), right=st.integers(0, 3))
def test_chosen_rows_keep_their_tokens_and_lose_unused_columns(
    make_sequences: MakeSequences, index: list[int], left: int, right: int
) -> None:
    rows = make_sequences(PROMPTS, RESPONSES, left=left, right=right).rows(index)
    assert contents(rows) == [(PROMPTS[i] + RESPONSES[i], RESPONSES[i]) for i in index]
    assert rows.response_mask.shape[1] == max(len(RESPONSES[i]) for i in index)
    assert rows.input_ids.shape[1] == max(len(PROMPTS[i]) for i in index) + rows.response_mask.shape[1]


def test_a_slice_chooses_rows_too(make_sequences: MakeSequences) -> None:
    sequences = make_sequences(PROMPTS, RESPONSES, left=1, right=1)
    for got, expected in zip(sequences.rows(slice(1, 3)), sequences.rows([1, 2]), strict=True):
        assert_close(got, expected)


def test_what_belongs_to_tokens_is_cut_like_the_response(make_sequences: MakeSequences) -> None:
    sequences = make_sequences(PROMPTS, RESPONSES, right=2)
    *tensors, drawn = torch.arange(6 * 15).view(6, 3, 5).float()
    kl_coef, version = torch.tensor([[0.1], [0.2], [0.3]]), torch.tensor([[3], [4], [5]])
    whole = Experience(sequences, *tensors, kl_coef=kl_coef, sampler_logprobs=drawn, weights_version=version)
    experience = whole.rows([2, 0])
    assert_close(experience.sequences.response_mask, torch.tensor([[True, True], [True, False]]))
    for chosen, tensor in zip(experience[1:6], tensors, strict=True):
        assert_close(chosen, tensor[[2, 0], :2])
    assert_close(experience.sampler_logprobs, drawn[[2, 0], :2])
    assert_close(experience.kl_coef, torch.tensor([[0.3], [0.1]]))
    assert_close(experience.weights_version, torch.tensor([[5], [3]]))
