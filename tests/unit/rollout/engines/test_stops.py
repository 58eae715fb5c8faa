"""Where responses end that an engine has drawn as a whole."""

from collections.abc import Sequence

import pytest

from lightning_rlhf.rollout.engines.engine import Completion
from lightning_rlhf.rollout.engines.stops import Stops
from lightning_rlhf.rollout.sampling import Sampling

WORDS = ["<end>", "a", "b ", " c"]


def decode(ids: Sequence[int]) -> str:
    return "".join(WORDS[token] for token in ids)


def whole(*ids: int) -> Completion:
    return Completion(4, list(ids), [-float(place) for place in range(len(ids))], "length", 7)


@pytest.mark.parametrize(
    ("texts", "ids", "kept", "reason"),
    [
        # "b  c" begins in one token and ends in the next.
        (["b  c"], [1, 2, 3, 1], 3, "stop"),
        (["b  c", "a"], [1, 2, 3, 1], 1, "stop"),
        (["x"], [1, 2, 3, 1], 4, "length"),
        ([], [1, 2, 3, 1], 4, "length"),
    ],
)
def test_a_whole_response_is_cut_behind_the_first_text_that_ends_it(
    texts: list[str], ids: list[int], kept: int, reason: str
) -> None:
    stops = Stops(Sampling(max_new_tokens=4, stop=texts), (0,), decode)
    cut = stops.cut(whole(*ids))
    assert (cut.ids, cut.finish_reason) == (ids[:kept], reason)
    assert cut.logprobs == [-float(place) for place in range(kept)]
    assert cut.entropies is None
    entropies = stops.cut(whole(*ids)._replace(entropies=[0.5, 1.5, 2.5, 3.5])).entropies
    assert entropies == [0.5, 1.5, 2.5, 3.5][:kept]
    assert (cut.request, cut.weights_version) == (4, 7)
