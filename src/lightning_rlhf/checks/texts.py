"""Checks of the tokenizer, the chat template and rows of tokens."""

from collections.abc import Iterator, Sequence

import numpy as np

from lightning_rlhf.checks.finding import Finding, judged
from lightning_rlhf.data.formats import Message
from lightning_rlhf.data.kinds import Conversation
from lightning_rlhf.data.render import Renderer
from lightning_rlhf.data.serving import served_otherwise
from lightning_rlhf.data.thoughts import without_thought
from lightning_rlhf.errors import UserError

QUESTION = Message(role="user", content="Is that so?")
_ANSWER = Message(role="assistant", content="Yes, that is so.")


def special_tokens(renderer: Renderer) -> Finding:
    """Names the tokens that end an answer, and checks that the template ends it with one of them.

    What a template writes between an answer and the stop token is learnt with the answer. That is meant where a stop
    token follows in the template, as in `</answer><|im_end|>`. Where none follows, it may be a stop token that the
    tokenizer does not have.
    """
    tokenizer, stops = renderer.tokenizer, renderer.stop_ids
    tokens = tokenizer.convert_ids_to_tokens(list(stops))
    found = "answers end with " + ", ".join(f"{token} ({stop})" for token, stop in zip(tokens, stops, strict=True))
    if tokenizer.pad_token_id in stops:
        found += "; PAD is one of them, which is harmless: masks come from lengths, never from ids"
    answer = renderer.conversation([QUESTION, _ANSWER], loss_on="last")
    learnt = [token for token, counts in zip(*answer, strict=True) if counts and token not in stops]
    between = str(tokenizer.decode(learnt)).rpartition(_ANSWER["content"])[2]
    rendered = str(tokenizer.apply_chat_template([QUESTION, _ANSWER], tokenize=False))  # type: ignore[arg-type]
    stopped = any(token in rendered.rpartition(_ANSWER["content"])[2] for token in tokens)
    return judged(
        "stop tokens",
        stopped or not between.strip(),
        f"{found}; the template adds {between!r} before, as text" if between.strip() or stopped and between else found,
        f"the model would learn to write {between!r} at the end of each answer: if it ends turns, make it a special "
        "token of the tokenizer (model.tokenizer), or set a data.template that ends answers with eos_token",
        severity="warning",
    )


def served_prompts(renderer: Renderer) -> Finding:
    """Checks that a server, where the tokenizer renders conversations, gives the same token ids as training."""
    differ = served_otherwise(renderer, renderer.tokenizer)
    return judged(
        "served prompts",
        differ is None,
        differ or "apply_chat_template(tokenize=True) gives the ids of training over several turns",
        "set another data.template, or serve the model with the ids of Renderer.prompt",
        severity="warning",
    )


def single_bos(renderer: Renderer, rows: Sequence[Sequence[int]]) -> Finding:
    """Checks that no row begins with more than one BOS token.

    Args:
        renderer: The renderer, which knows the BOS token.
        rows: Token ids of prompts or conversations.
    """
    bos = renderer.tokenizer.bos_token_id
    if bos is None:
        return Finding("BOS", "ok", "the tokenizer has no BOS token")
    double = sum(list(row[:2]) == [bos, bos] for row in rows)
    begun = sum(row[0] == bos for row in rows)
    return judged(
        "BOS",
        not double,
        f"{double} of {len(rows)} rows begin with two" if double else f"{begun} of {len(rows)} rows begin with one",
        "both the chat template and the tokenizer add a BOS token: set another data.template",
        severity="error",
    )


def labels(renderer: Renderer, rows: Sequence[Conversation]) -> Iterator[Finding]:
    """Checks that every row has tokens to learn, and that the last of them ends an answer.

    Args:
        renderer: The renderer, which knows the stop tokens.
        rows: Conversations.
    """
    learnt = [int(np.sum(row.loss_mask)) for row in rows]
    yield judged(
        "labels",
        all(learnt),
        f"{sum(map(bool, learnt))} of {len(rows)} rows have tokens to learn, "
        f"{sum(learnt) / sum(len(row.ids) for row in rows):.0%} of all tokens",
        "leave out the rows without tokens to learn, or set another data.template",
        severity="error",
    )
    ended = sum(_last_label(row) in renderer.stop_ids for row in rows if np.any(row.loss_mask))
    yield judged(
        "EOS in the labels",
        ended == sum(map(bool, learnt)),
        f"the last token to learn ends the answer in {ended} of {len(rows)} rows",
        "a model that never learns to stop continues up to the length limit: set another data.template",
        severity="error",
    )


def _last_label(row: Conversation) -> int:
    """The last token of a row that the model learns."""
    return int(row.ids[np.flatnonzero(row.loss_mask)[-1]])


def template_round_trip(renderer: Renderer, prompts: Sequence[list[Message]]) -> Finding:
    """Checks that a prompt is the beginning of its conversation, and that an answer survives encoding and decoding.

    Args:
        renderer: The renderer, which turns texts into tokens and tokens into texts.
        prompts: Conversations up to the answer.
    """
    check, remedy = "chat template", "set another data.template"
    for prompt in prompts:
        try:
            ids, whole = renderer.prompt(prompt), renderer.conversation([*prompt, _ANSWER], loss_on="last")
        except UserError as error:
            return Finding(check, "error", str(error), remedy)
        if whole.ids[: len(ids)] != ids:
            return Finding(check, "error", f"a prompt is not the beginning of its conversation: {prompt}", remedy)
        # The template may put an empty thought before the answer.
        answer = without_thought(renderer.decode(whole.ids[len(ids) :]))
        if answer != _ANSWER["content"]:
            return Finding(check, "error", f"the answer {_ANSWER['content']!r} comes back as {answer!r}", remedy)
    return Finding(check, "ok", f"renders, and answers come back unchanged ({len(prompts)} tried)")


def fits_context(what: str, longest: int, context: int | None) -> Finding:
    """Checks that the longest row fits into the context of the models.

    Args:
        what: Description of the longest row.
        longest: Length of the longest row in tokens.
        context: The smallest number of positions among the models; None if no model has a limit.
    """
    return judged(
        "context length",
        context is None or longest <= context,
        f"{what}: {longest} tokens; the models read {context or 'any number'}",
        "lower data.max_length, data.max_prompt_length or rollout.sampling.max_new_tokens, or use another model",
        severity="error",
    )


def fits_vocabulary(largest: int, vocabulary: int | None) -> Finding:
    """Checks that the models know all ids that the tokenizer produces.

    Args:
        largest: The largest id.
        vocabulary: The smallest vocabulary size among the models; None if it is unknown.
    """
    return judged(
        "vocabulary",
        vocabulary is None or largest < vocabulary,
        f"the largest id is {largest}; the models know {vocabulary or 'any number'}",
        "the tokenizer does not belong to the model: set model.tokenizer",
        severity="error",
    )
