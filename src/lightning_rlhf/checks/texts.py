"""Checks of tokenizer, chat template and rows of tokens."""

from collections.abc import Iterator, Sequence

import numpy as np

from lightning_rlhf.checks.finding import Finding, judged
from lightning_rlhf.data.formats import Message
from lightning_rlhf.data.kinds import Conversation
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.serving import served_otherwise
from lightning_rlhf.errors import UserError

QUESTION = Message(role="user", content="Is that so?")
_ANSWER = Message(role="assistant", content="Yes, that is so.")


def special_tokens(renderer: Renderer) -> Finding:
    """Which tokens end an answer, and whether that with which the template ends one is among them."""
    tokenizer, stops = renderer.tokenizer, renderer.stop_ids
    found = "answers end with " + ", ".join(f"{tokenizer.convert_ids_to_tokens(stop)} ({stop})" for stop in stops)
    if tokenizer.pad_token_id in stops:
        found += "; PAD is one of them, which does no harm here: masks come from lengths, never from ids"
    added = tokenizer.added_tokens_decoder
    answer = renderer.conversation([QUESTION, _ANSWER], loss_on="last")
    learnt = [token for token, counts in zip(*answer, strict=True) if counts]
    unknown = [added[token].content for token in learnt if token in added and token not in stops]
    return judged(
        "stop tokens",
        not unknown,
        f"{found}; the template puts {', '.join(unknown)} before" if unknown else found,
        f"a model that ends its turns with {unknown[-1:]} would not be stopped: make it the tokenizer's eos_token, or "
        "add it to eos_token_id in the model's generation_config.json",
        severity="warning",
    )


def served_prompts(renderer: Renderer) -> Finding:
    """Whether a server, which lets the tokenizer render conversations, gives the ids of training."""
    differ = served_otherwise(renderer, renderer.tokenizer)
    return judged(
        "served prompts",
        differ is None,
        differ or "apply_chat_template(tokenize=True) gives the ids of training, over several turns",
        "set another data.template, or serve the model with the ids of Renderer.prompt",
        severity="warning",
    )


def single_bos(renderer: Renderer, rows: Sequence[Sequence[int]]) -> Finding:
    """Whether a row begins with more than one BOS.

    Args:
        renderer: Knows the BOS.
        rows: Ids of prompts or conversations.
    """
    bos = renderer.tokenizer.bos_token_id
    if bos is None:
        return Finding("BOS", "ok", "the tokenizer has none")
    double = sum(list(row[:2]) == [bos, bos] for row in rows)
    begun = sum(row[0] == bos for row in rows)
    return judged(
        "BOS",
        not double,
        f"{double} of {len(rows)} rows begin with two" if double else f"{begun} of {len(rows)} rows begin with one",
        "both the chat template and the tokenizer add one: set another data.template",
        severity="error",
    )


def labels(renderer: Renderer, rows: Sequence[Conversation]) -> Iterator[Finding]:
    """Whether every row has tokens to learn, and the last of them ends an answer.

    Args:
        renderer: Knows what ends an answer.
        rows: Conversations.
    """
    learnt = [int(np.sum(row.loss_mask)) for row in rows]
    yield judged(
        "labels",
        all(learnt),
        f"{sum(map(bool, learnt))} of {len(rows)} rows have tokens to learn, "
        f"{sum(learnt) / sum(len(row.ids) for row in rows):.0%} of all tokens",
        "leave out the rows without, or set another data.template",
        severity="error",
    )
    ended = sum(_last_label(row) in renderer.stop_ids for row in rows if np.any(row.loss_mask))
    yield judged(
        "EOS in the labels",
        ended == sum(map(bool, learnt)),
        f"the last token to learn ends the answer in {ended} of {len(rows)} rows",
        "a model that never learns to stop answers up to the length limit: set another data.template",
        severity="error",
    )


def _last_label(row: Conversation) -> int:
    """The last token of a row that is to be learnt."""
    return int(row.ids[np.flatnonzero(row.loss_mask)[-1]])


def template_round_trip(renderer: Renderer, prompts: Sequence[list[Message]]) -> Finding:
    """Whether a prompt is the beginning of its conversation, and an answer comes back as it went in.

    Args:
        renderer: Makes tokens of texts and texts of tokens.
        prompts: Messages up to the answer.
    """
    check, remedy = "chat template", "set another data.template"
    for prompt in prompts:
        try:
            ids, whole = renderer.prompt(prompt), renderer.conversation([*prompt, _ANSWER], loss_on="last")
        except UserError as error:
            return Finding(check, "error", str(error), remedy)
        if whole.ids[: len(ids)] != ids:
            return Finding(check, "error", f"a prompt does not begin its conversation: {prompt}", remedy)
        answer = renderer.decode(whole.ids[len(ids) :])
        if answer != _ANSWER["content"]:
            return Finding(check, "error", f"the answer {_ANSWER['content']!r} comes back as {answer!r}", remedy)
    return Finding(check, "ok", f"renders, and answers come back as they went in ({len(prompts)} tried)")


def fits_context(what: str, longest: int, context: int | None) -> Finding:
    """Whether the longest row fits into what the nets can read.

    Args:
        what: What is that long.
        longest: Tokens.
        context: Positions of the net that has the fewest; None if none has a limit.
    """
    return judged(
        "context length",
        context is None or longest <= context,
        f"{what}: {longest} tokens; the nets read {context or 'any number'}",
        "lower data.max_length, data.max_prompt_length or rollout.sampling.max_new_tokens, or take another model",
        severity="error",
    )


def fits_vocabulary(largest: int, vocabulary: int | None) -> Finding:
    """Whether the nets know all ids that the tokenizer makes.

    Args:
        largest: The largest id.
        vocabulary: Ids that the net knows that has the fewest; None if that is not known.
    """
    return judged(
        "vocabulary",
        vocabulary is None or largest < vocabulary,
        f"the largest id is {largest}; the nets know {vocabulary or 'any number'}",
        "the tokenizer is not the one of the model: set model.tokenizer",
        severity="error",
    )
