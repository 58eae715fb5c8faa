"""Tries an export as other programs use it: with plain transformers and peft, through the chat template."""

import sys
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
    pipeline,
)

from lightning_rlhf.data.fields import Message
from lightning_rlhf.data.pairs import cut_at_end
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.models.names import found_from
from lightning_rlhf.models.scalar import ScalarModel
from lightning_rlhf.models.usage import ENDINGS

_QUESTION = [Message(role="user", content="My kettle leaks.")]
_ANSWERED = [*_QUESTION, Message(role="assistant", content="Close the lid.")]


# Sampling, and building an adapter, would otherwise move the generator on from which the rest of a run may draw.
@torch.random.fork_rng(devices=[])
def ends_otherwise(folder: Path, renderer: Renderer) -> str | None:
    """Describes how `generate` of plain transformers ends the answers of an exported language model.

    Args:
        folder: The export.
        renderer: The renderer of the training, which knows where answers end.

    Returns:
        A description of what differs; None if answers end at the stop tokens of the renderer and nowhere else.
    """
    return _ends_otherwise(AutoModelForCausalLM.from_pretrained(folder), folder, renderer)


@torch.random.fork_rng(devices=[])
def adapter_ends_otherwise(folder: Path, base: str, renderer: Renderer) -> str | None:
    """Describes the same for an adapter on its base model, which peft loads.

    Args:
        folder: The folder of the adapter.
        base: Hub name of the base model, or its path from the folder of the adapter.
        renderer: The renderer of the training.
    """
    from peft import PeftModel

    model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(found_from(base, folder)), str(folder))
    model.generation_config = GenerationConfig.from_pretrained(folder)
    return _ends_otherwise(model, folder, renderer)


def _ends_otherwise(model: Any, folder: Path, renderer: Renderer) -> str | None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    size, stops, pad = (
        model.config.get_text_config().vocab_size,
        renderer.stop_ids,
        model.generation_config.pad_token_id,
    )
    # A tokenizer may have more tokens than the model.
    served = tokenizer.apply_chat_template(_QUESTION, add_generation_prompt=True, return_dict=False)
    word = next(token for token in range(size) if token not in (*stops, pad))
    # A tiny model may have few positions; eight are left for the answer.
    prompt = [token for token in served if token < size][: _positions(model) - 8] or [word]
    # One answer says each token of the prompt that ends nothing, such as the markers of roles; each of the others is
    # a word and a stop token. An answer that does not end goes on with the word.
    others = list(dict.fromkeys(token for token in prompt if token not in stops))[:6]
    ends = [stop for stop in stops if stop < size]
    answers = [others, *([word, stop] for stop in ends)]
    longest = max(map(len, answers)) + 1
    scripts = [answer + [word] * (longest - len(answer)) for answer in answers]

    def next_tokens(row: int, ids: torch.Tensor) -> list[int]:
        return [scripts[row][len(ids) - len(prompt)]]

    ids = torch.tensor([prompt] * len(scripts))
    said = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=longest,
        prefix_allowed_tokens_fn=next_tokens,
    )[:, len(prompt) :].tolist()
    # `generate` returns fewer tokens if all answers have ended.
    going_on = [*takewhile(lambda pair: pair[0] == pair[1], zip(said[0], scripts[0], strict=False))]
    if (at := len(going_on)) < longest:
        return f"ends answers at {tokenizer.convert_ids_to_tokens(scripts[0][at - 1])!r}, where training does not"
    for stop, answer in zip(ends, said[1:], strict=True):
        if answer != [word, stop] + [pad] * (len(answer) - 2):
            return f"goes on after {tokenizer.convert_ids_to_tokens(stop)!r}, where training ends answers"
    return None


@torch.no_grad()
def scores_otherwise(folder: Path, renderer: Renderer, ours: ScalarModel, dtype: torch.dtype) -> str | None:
    """Describes how the scores of `pipeline("text-classification")` differ from ours.

    Args:
        folder: The export of a reward model.
        renderer: The renderer of its training.
        ours: The reward model.
        dtype: The dtype of its weights in the files.
    """
    ending = score_ending(renderer)
    if ending is None or (score := _our_score(renderer, ours)) is None:
        return None
    tokenizer, text = _scored_text(folder, ending)
    # By default a pipeline moves its model to a GPU, which may be full.
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    other = classify(text, add_special_tokens=False)[0]["score"] + classify.model.config.score_bias
    return _apart(other, score, dtype)


# The base model draws a head, which that of the adapter replaces.
@torch.random.fork_rng(devices=[])
@torch.no_grad()
def adapter_scores_otherwise(
    folder: Path, base: str, renderer: Renderer, ours: ScalarModel, dtype: torch.dtype, bias: float
) -> str | None:
    """Describes how the scores of an adapter on its base model, which peft loads, differ from ours.

    Args:
        folder: The folder of the adapter.
        base: Hub name of the base model, or its path from the folder of the adapter.
        renderer: The renderer of the training.
        ours: The reward model with merged weights.
        dtype: The dtype of the merged weights.
        bias: The constant that peft leaves out.
    """
    from peft import PeftModel

    ending = score_ending(renderer)
    if ending is None or (score := _our_score(renderer, ours)) is None:
        return None
    tokenizer, text = _scored_text(folder, ending)
    plain = AutoModelForSequenceClassification.from_pretrained(found_from(base, folder), num_labels=1)
    model: Any = PeftModel.from_pretrained(plain, str(folder)).eval()
    # The score is then that of the last token.
    model.config.pad_token_id = None
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    return _apart(float(model(ids).logits) + bias, score, dtype)


def _our_score(renderer: Renderer, ours: ScalarModel) -> float | None:
    """Our score of a short answer; None if the model cannot read its ids."""
    ids, config = _scored(renderer), ours.hf_config.get_text_config()
    if max(ids) >= config.vocab_size or len(ids) > _positions(ours.net):
        return None
    row = torch.tensor([ids], device=ours.bias.device)
    return float(ours.scores(row, torch.ones_like(row, dtype=torch.bool)))


def _scored_text(folder: Path, ending: str) -> tuple[Any, str]:
    """The tokenizer of an export, and the text of the short answer that a reward model reads, with a `score_ending`."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return tokenizer, ENDINGS[ending](tokenizer.apply_chat_template(_ANSWERED, tokenize=False), tokenizer.eos_token)


def _apart(other: float, score: float, dtype: torch.dtype) -> str | None:
    allowed = max(1.0, abs(score)) * (1e-3 if dtype == torch.float32 else 0.1)
    return None if abs(other - score) <= allowed else f"scores {other:.4f} in transformers and {score:.4f} in training"


def score_ending(renderer: Renderer) -> str | None:
    """Returns the key of `ENDINGS` with which the tokenizer of an export gives the ids that a reward model reads.

    None if no text does, because a token crosses the end of a turn.
    """
    tokenizer: PreTrainedTokenizerBase = renderer.tokenizer
    text = str(tokenizer.apply_chat_template(_ANSWERED, tokenize=False))  # type: ignore[arg-type]
    for name, ended in ENDINGS.items():
        if tokenizer(ended(text, str(tokenizer.eos_token)), add_special_tokens=False)["input_ids"] == _scored(renderer):
            return name
    return None


def _positions(model: Any) -> int:
    """The largest number of tokens that a model reads, as far as its configuration limits it."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None) or sys.maxsize


def _scored(renderer: Renderer) -> list[int]:
    return cut_at_end(renderer.conversation(_ANSWERED, loss_on="last")).ids
