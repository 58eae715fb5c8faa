"""Properties that the data modules share, and those of preferences and prompts alone."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule

from lightning_rlhf.data.batches import pad
from lightning_rlhf.data.kinds import conversation_rows
from lightning_rlhf.data.module import ResumableDataModule
from lightning_rlhf.data.pairs import Pair, cut_at_end
from lightning_rlhf.data.preference import PreferenceDataModule, collate_pairs
from lightning_rlhf.data.prompts import Prompt, PromptDataModule, collate_prompts, iteration_prompts
from lightning_rlhf.data.render import Rendered, Renderer
from lightning_rlhf.data.sft import SFTDataModule, collate_sft, unlabelled
from lightning_rlhf.data.split import position
from lightning_rlhf.errors import UserError


def prompts(count: int) -> list[Prompt]:
    return [Prompt(np.asarray([i]), str(i), {}) for i in range(count)]


def test_padding_is_known_from_lengths_even_where_a_real_id_is_0() -> None:
    ids, mask = pad([[0, 0, 5], [7]])
    assert ids.tolist() == [[0, 0, 5], [7, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]


def test_prompts_are_padded_at_the_left() -> None:
    batch = collate_prompts([Prompt([1, 2, 3], "x", {}), Prompt([4], "y", {})], [0, 1])
    assert batch.input_ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert batch.attention_mask.tolist() == [[True] * 3, [False, False, True]]


def test_a_conversation_is_scored_at_its_stop_token_not_at_what_a_template_puts_behind_it() -> None:
    # "hi", the stop token 9, and the newline 3 that ChatML puts after it.
    rendered = Rendered([1, 2, 9, 3], [False, True, True, False])
    assert cut_at_end(rendered) == Rendered([1, 2, 9], [False, True, True])


def test_pairs_are_chosen_first_with_the_lengths_of_their_answers() -> None:
    chosen, rejected = Rendered([1, 5, 9], [False, True, True]), Rendered([1, 9], [False, True])
    batch = collate_pairs([Pair(chosen, rejected, 0.5)], num_pairs=8)
    assert batch.input_ids.tolist() == [[1, 5, 9], [1, 9, 0]]
    assert batch.answer_lengths.tolist() == [2, 1]
    assert (batch.margin.tolist(), batch.num_pairs) == ([0.5], 8)


def test_a_row_that_only_fills_a_batch_has_nothing_to_learn() -> None:
    (row,) = conversation_rows([Rendered([1, 5, 9], [False, True, True])])
    batch = collate_sft([row, unlabelled(row)], num_tokens=2)
    assert batch.loss_mask.sum(1).tolist() == [2, 0]


def test_every_prompt_is_used_once_before_any_is_used_again() -> None:
    chosen = [text for i in range(5) for text in iteration_prompts(prompts(10), 4, 1, seed=1, iteration=i).texts]
    assert sorted(chosen[:10]) == sorted(chosen[10:]) == sorted(str(i) for i in range(10))
    assert chosen[:10] != chosen[10:]


def test_a_rollout_may_be_larger_than_the_prompts() -> None:
    chosen = iteration_prompts(prompts(3), 7, 1, seed=1, iteration=0).texts
    assert {chosen.count(str(i)) for i in range(3)} == {2, 3}


def test_the_prompts_of_an_iteration_depend_on_seed_and_iteration_alone() -> None:
    def texts(seed: int, iteration: int) -> list[str]:
        return iteration_prompts(prompts(50), 8, 1, seed=seed, iteration=iteration).texts

    assert texts(1, 3) == texts(1, 3)
    assert texts(1, 3) != texts(2, 3)


def test_prompts_are_for_a_module_that_samples_responses_to_them(make_tokenizer: Callable) -> None:
    data = PromptDataModule(
        [{"prompt": f"What is {n}?"} for n in range(40)], Renderer(make_tokenizer()), val_fraction=0.3
    )
    data.setup("fit")
    given: list[tuple[Any, Any]] = []
    module = SimpleNamespace(rollout_dataset=lambda prompts, ptx: given.append((prompts, ptx)))
    data.trainer = SimpleNamespace(lightning_module=module)
    data.make_train_loader()
    assert given == [(data.train_prompts, None)]
    data.trainer = SimpleNamespace(lightning_module=LightningModule())
    with pytest.raises(UserError, match="PromptDataModule feeds a PPOModule, .* not a LightningModule"):
        data.make_train_loader()


def test_the_prompts_of_pairs_come_once_where_they_stand_first_with_the_columns_of_their_last_row(
    make_tokenizer: Callable,
) -> None:
    renderer = Renderer(make_tokenizer())
    pairs = [
        {"prompt": prompt, "chosen": f"yes {n}", "rejected": "no", "n": n} for n, prompt in enumerate(["b", "a", "b"])
    ]
    # The prompt is longer than allowed with its answer, but not without it.
    limit = 40
    pairs.append({"prompt": "c", "chosen": "yes " * 99, "rejected": "no", "n": 3})
    data = PreferenceDataModule(
        pairs, renderer, val_path=pairs, minibatch_size=1, answer_prompts=True, max_length=limit
    )
    data.setup("fit")
    assert len(data.train_rows) == 3
    assert [(prompt.text, prompt.columns["n"]) for prompt in data.prompts] == [("b", 2), ("a", 1), ("c", 3)]
    assert [prompt.ids.tolist() for prompt in data.prompts] == [
        renderer.prompt([{"role": "user", "content": text}]) for text in "bac"
    ]
    assert [prompt.text for prompt in data.reference_prompts(2)] == ["b", "a"]


@pytest.mark.parametrize("module", [SFTDataModule, PreferenceDataModule])
def test_few_rows_make_a_small_minibatch_and_the_log_says_so(
    module: Callable, make_tokenizer: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [{"prompt": f"Is it {n}?", "chosen": "yes", "rejected": "no"} for n in range(20)]
    data = module(pairs, Renderer(make_tokenizer()), val_fraction=0.001)
    # Three parts of each of two processes.
    data.trainer = SimpleNamespace(world_size=2, accumulate_grad_batches=3, global_rank=0)
    data.setup("fit")
    assert (data.minibatch_size, len(data.train_rows), len(data.val_rows)) == (18, 19, 1)
    # The nineteenth row is a minibatch of its own, in three parts too.
    assert len(data.make_train_loader()) == 6
    assert caplog.messages == [
        "val_fraction=0.001 would hold out none of 20 prompts, so one is held out",
        "minibatch_size=64: there are only 19 rows to train on, so a minibatch has 18",
    ]


def test_the_prompt_that_is_held_out_is_one_that_fits(make_tokenizer: Callable) -> None:
    renderer = Renderer(make_tokenizer())
    # The prompt that would be held out first is too long; see `position`.
    texts = sorted((f"q{n}" for n in range(6)), key=lambda text: position([{"role": "user", "content": text}]))
    rows = [{"prompt": text, "completion": "yes " * (300 if text == texts[0] else 1)} for text in texts]
    data = SFTDataModule(rows, renderer, val_fraction=1e-9, max_length=60)
    data.setup("fit")
    assert (len(data.train_rows), len(data.val_rows)) == (4, 1)


def test_pairs_are_dealt_by_the_tokens_of_both_answers(make_tokenizer: Callable) -> None:
    # The longer answers are equal, and the shorter ones are not.
    shorter = ["no", "no " * 4, "no " * 9, "no " * 12]
    pairs = [{"prompt": "Is it?", "chosen": "yes " * 12, "rejected": text} for text in shorter]
    data = PreferenceDataModule(pairs, Renderer(make_tokenizer()), val_path=pairs, minibatch_size=4)
    data.trainer = SimpleNamespace(world_size=1, accumulate_grad_batches=2, global_rank=0)  # type: ignore[assignment]
    data.setup("fit")
    assert len(set(data.train_rows.numbers("length"))) == 1
    tokens = [int(batch.attention_mask.sum()) for batch in data.make_train_loader()]
    each = sorted(len(row.chosen.ids) + len(row.rejected.ids) for row in data.train_rows)
    # The pair with the most tokens goes with the one that has the fewest.
    assert sorted(tokens) == sorted([each[0] + each[3], each[1] + each[2]])
    assert each[3] + each[2] - each[1] - each[0] > 8


class Loaderless(ResumableDataModule):
    """A data module of which only the batches matter."""

    def make_train_loader(self) -> Any:
        raise NotImplementedError


class Part(NamedTuple):
    ids: torch.Tensor
    texts: list[str]
    nothing: None


def test_a_batch_for_a_gpu_is_put_into_page_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor + 1)
    data, strategy = Loaderless(), SimpleNamespace(root_device=torch.device("cuda"))
    data.trainer = SimpleNamespace(strategy=strategy)  # type: ignore[assignment]
    batch = {"part": Part(torch.zeros(2), ["a", "b"], None), "rest": [torch.ones(1)]}
    moved = data.on_before_batch_transfer(batch, 0)
    assert len(pinned) == 2
    assert moved["part"].ids.tolist() == [1, 1]
    assert moved["rest"][0].tolist() == [2]
    assert (moved["part"].texts, moved["part"].nothing) == (["a", "b"], None)
    strategy.root_device = torch.device("cpu")
    assert data.on_before_batch_transfer(batch, 0) is batch
    assert len(pinned) == 2
