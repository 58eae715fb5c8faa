"""From messages to token ids: the one renderer for all stages.

A conversation is rendered as text with the chat template and cut where turns begin and end; every piece is tokenised
by itself. So the ids of a prompt are always a prefix of the ids of that prompt with an answer, whichever stage asks.
They are those that the tokenizer makes of the whole text, since that is what a server gives the exported model.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

from lightning_rlhf.data.formats import Message
from lightning_rlhf.data.stops import check_stops
from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = {
    "plain": (
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ message['content'] }}"
        "{% elif message['role'] == 'user' %}{{ '\\n\\nHuman: ' + message['content'] }}"
        "{% else %}{{ '\\n\\nAssistant: ' + message['content'] + eos_token }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
    ),
    "raw": (
        "{% for message in messages %}"
        "{{ message['content'] }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}"
    ),
}

# A Unicode noncharacter, reserved for use inside programs: texts do not hold it.
_CUT = "\ufdd0"


class Rendered(NamedTuple):
    """Token ids of a conversation, and which of them are learnt; both of the same length."""

    ids: list[int]
    loss_mask: list[bool]


class Renderer:
    """Turns messages into token ids and sampled ids back into text.

    - BOS: exactly one if the tokenizer adds one by itself or the template brings it, else none. If the template lacks
      it, it is put in front of the template, so that an exported model is prompted in the way it was trained.
    - EOS: a turn of the assistant is learnt up to and including its first stop token. What the template puts behind
      that (a newline, say) is not learnt. If the template ends the last answer without a stop token, EOS is appended.
    - Contents are text, never control tokens: `<|im_end|>` inside a message becomes the tokens of these characters.
    - Contents are stripped, except with the template "raw", where data decide about every space.
    - The mask comes from the structure. Which token pads, be it EOS itself, makes no difference.

    Attributes:
        tokenizer: The tokenizer given; its `chat_template` is now the one in use, so that an export carries it.
        stop_ids: Sorted ids that end an answer: the tokenizer's EOS and those given.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: str | None = None,
        stop_ids: Sequence[int] | None = None,
    ) -> None:
        """Sets and tries the chat template.

        Args:
            tokenizer: Any tokenizer with an EOS token.
            template: "plain" (turns begin with "Human:" and "Assistant:"), "raw" (contents and EOS, nothing else) or
                the text of a Jinja chat template. None takes the tokenizer's own, or "plain" if it has none.
            stop_ids: More ids that end an answer, such as the `eos_token_id` list of the generation config.

        Raises:
            UserError: If the tokenizer has no EOS token, the template cannot render a plain question, or an id that
                ends an answer is no token, or begins a turn.
        """
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no EOS token, so no answer could ever end; set its eos_token")
        self.tokenizer = tokenizer
        self.stop_ids = tuple(sorted({tokenizer.eos_token_id, *(stop_ids or ())}))
        self._control = _control_tokens(tokenizer, self.stop_ids)
        self._added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        self._anchor, self._anchor_ids = "", []
        if self._encode("\na") != self._encode("\n") + self._encode("a"):
            self._anchor, self._anchor_ids = "\n", self._encode("\n")
        tokenizer.chat_template = _chat_template(tokenizer, template)
        # By the text and not by the name, which an exported tokenizer does not carry.
        self._keeps_space = tokenizer.chat_template.endswith(TEMPLATES["raw"])
        text = self._text([{"role": "user", "content": "Hello"}])
        adds_bos = tokenizer.bos_token_id in tokenizer("Hello")["input_ids"][:1]
        if adds_bos and not text.lstrip().startswith(str(tokenizer.bos_token)):
            tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
        check_stops(self.stop_ids, tokenizer, self._text)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Renders a prompt, ready for generation.

        Args:
            messages: The conversation up to the turn to be generated.

        Returns:
            Token ids that end with the generation prompt.

        Raises:
            UserError: If the template refuses the messages.
        """
        return list(chain.from_iterable(self._ids(self._prompt_pieces(messages))))

    def conversation(self, messages: Sequence[Message], loss_on: Literal["all", "last"] = "all") -> Rendered:
        """Renders a whole conversation; its ids begin with those of `prompt(messages[:-1])`.

        Args:
            messages: A conversation that ends with a turn of the assistant.
            loss_on: Learn every turn of the assistant that answers something, or the last one alone.

        Returns:
            The ids, and a mask that is True on every token that is learnt.

        Raises:
            UserError: If there is no answer to learn, or the template refuses the messages or rewrites earlier turns
                so that they cannot all be learnt from one text.
        """
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise UserError("there is no token to learn: the conversation must end with an assistant's answer")
        prompt = self._prompt_pieces(messages[:-1])
        prompt_text, whole = "".join(prompt), self._text(messages)
        if not whole.startswith(prompt_text):
            raise UserError(
                "the chat template does not begin an answer the way its generation prompt does: it prompts "
                f"with {prompt_text[-60:]!r} and renders {whole[-120:]!r}; set another template"
            )
        last = len(prompt)
        if loss_on == "all" and last == 1 and any(_is_answer(messages, n) for n in range(len(messages) - 1)):
            raise UserError(
                "the chat template rewrites earlier turns of the assistant, so not all of them can be learnt "
                'from one text; set loss_on="last", or another template'
            )
        ids: list[int] = []
        mask: list[bool] = []
        for n, piece in enumerate(self._ids([*prompt, whole[len(prompt_text) :]])):
            end = next((k + 1 for k, token in enumerate(piece) if token in self.stop_ids), None)
            if n == last and end is None:
                piece = [*piece, self.tokenizer.eos_token_id]
            learnt = n == last or (loss_on == "all" and n % 2 == 1)
            labels = (len(piece) if end is None else end) if learnt else 0
            ids += piece
            mask += [True] * labels + [False] * (len(piece) - labels)
        return Rendered(ids, mask)

    def decode(self, ids: Sequence[int]) -> str:
        """Turns sampled ids back into the text of an answer.

        Args:
            ids: The response, with whatever stands behind its end.

        Returns:
            The text up to the first stop token, without special tokens.
        """
        end = next((n for n, token in enumerate(ids) if token in self.stop_ids), len(ids))
        text = self._decode([*self._anchor_ids, *ids[:end]]).removeprefix(self._decode(self._anchor_ids))
        return text if self._keeps_space else text.strip()

    def _prompt_pieces(self, messages: Sequence[Message]) -> list[str]:
        """Cuts the text of a prompt into prompt, answer, prompt, ..., prompt; one piece if turns get rewritten."""
        cuts = [""]
        for n in range(len(messages)):
            if _is_answer(messages, n):
                cuts.append(self._text(messages[:n], prompt=True))
                cuts.append(self._text(messages[: n + 1]))
        cuts.append(self._text(messages, prompt=True))
        if not all(after.startswith(before) for before, after in pairwise(cuts)):
            return [cuts[-1]]
        return [after[len(before) :] for before, after in pairwise(cuts)]

    def _text(self, messages: Sequence[Message], prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            text = self.tokenizer.apply_chat_template(
                [{"role": message["role"], "content": self._content(message)} for message in messages],
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except (TemplateError, ValueError, TypeError) as error:
            raise UserError(f"the chat template refuses the messages: {error}") from error
        assert isinstance(text, str)
        return text

    def _content(self, message: Message) -> str:
        content = message["content"] if self._keeps_space else message["content"].strip()
        return self._control.sub(lambda found: found[0][0] + _CUT + found[0][1:], content)

    def _ids(self, pieces: Sequence[str]) -> Iterator[list[int]]:
        last: int | None = None
        for piece in pieces:
            ids: list[int] = []
            for part in piece.split(_CUT):
                ids += self._encode_behind(last, part)
                last = ids[-1] if ids else last
            yield ids

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, verbose=False)

    def _encode_behind(self, last: int | None, text: str) -> list[int]:
        """Encodes text as it would be as a part of a longer one.

        Tokenizers with "▁" put one in front of a text, and most of them in front of what follows a control token too.

        Args:
            last: The token in front of the text; None if the text is the first.
            text: What follows.
        """
        if last is None:
            return self._encode(text)
        before = (self._added[last], [last]) if last in self._added else (self._anchor, self._anchor_ids)
        ids = self._encode(before[0] + text)
        start = len(before[1])
        return ids[start:] if ids[:start] == before[1] else self._encode(text)

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def _is_answer(messages: Sequence[Message], n: int) -> bool:
    # Nothing prompts an assistant that speaks first, so such a greeting is context.
    return n > 0 and messages[n]["role"] == "assistant"


def _chat_template(tokenizer: "PreTrainedTokenizerBase", template: str | None) -> str:
    if template is None:
        return tokenizer.get_chat_template() if tokenizer.chat_template else TEMPLATES["plain"]
    if template not in TEMPLATES and "{" not in template:
        raise UserError(f"template '{template}' is neither one of {', '.join(TEMPLATES)} nor a Jinja template")
    return TEMPLATES.get(template, template)


def _control_tokens(tokenizer: "PreTrainedTokenizerBase", stop_ids: Sequence[int]) -> re.Pattern[str]:
    added = tokenizer.added_tokens_decoder.items()
    texts = {token.content for number, token in added if token.special or number in stop_ids}
    # A token of one character cannot be taken apart.
    longest_first = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
