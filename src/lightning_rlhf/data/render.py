"""Turns messages into token ids. All stages use the same renderer.

The chat template renders a conversation as text, which is cut where turns begin and end; each piece is tokenized by
itself. The ids of a prompt are therefore always a prefix of the ids of that prompt with an answer, in every stage. They
equal the ids that the tokenizer makes of the whole text, since a server gives those to the exported model.
"""

import re
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from lightning_rlhf.data.encoding import CUT, PieceEncoder
from lightning_rlhf.data.fields import Message
from lightning_rlhf.data.stops import check_stops
from lightning_rlhf.data.templates import TEMPLATES, Asked, ChatTexts, Turn, chosen_template
from lightning_rlhf.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


class Rendered(NamedTuple):
    """Token ids of a conversation, and a mask of equal length that says which of them are learnt."""

    ids: list[int]
    loss_mask: list[bool]


class Renderer:
    """Turns messages into token ids and sampled ids back into text.

    - BOS: there is exactly one if the tokenizer or the template adds it, otherwise none. If the tokenizer adds BOS and
      the template does not, BOS is prepended to the template, so that an exported model is prompted as in training.
    - EOS: a turn of the assistant is learnt up to and including its first stop token. What the template adds after that
      (a newline, for example) is not learnt. If the template ends the last answer without a stop token, EOS is added.
    - Contents are text, never control tokens: `<|im_end|>` inside a message becomes the tokens of these characters.
    - Contents are stripped, except with the template "raw", which preserves every space of the data.
    - The mask comes from the structure of the conversation. It does not depend on the padding token, which may be EOS.

    Attributes:
        tokenizer: The given tokenizer; its `chat_template` is set to the one in use, so that exports contain it.
        stop_ids: Sorted ids that end an answer: the tokenizer's EOS and the given ids.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        template: str | None = None,
        stop_ids: Sequence[int] | None = None,
    ) -> None:
        """Sets and tests the chat template.

        Args:
            tokenizer: Any tokenizer with an EOS token.
            template: "plain" (turns begin with "Human:" and "Assistant:"), "raw" (contents and EOS, nothing else) or
                the text of a Jinja chat template. None takes the tokenizer's template, or "plain" if it has none.
            stop_ids: Further ids that end an answer, such as the `eos_token_id` list of the generation config.

        Raises:
            UserError: If the tokenizer has no EOS token, if the template cannot render a simple question, or if an id
                that ends an answer is not a token, or begins a turn.
        """
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no EOS token, so no answer could ever end; set its eos_token")
        self.tokenizer = tokenizer
        self.stop_ids = tuple(sorted({tokenizer.eos_token_id, *(stop_ids or ())}))
        self._control = _control_tokens(tokenizer, self.stop_ids)
        self._encoder = PieceEncoder(tokenizer)
        tokenizer.chat_template = chosen_template(tokenizer, template)
        # The text of the template is compared, because an exported tokenizer does not contain its name.
        self._keeps_space = tokenizer.chat_template.endswith(TEMPLATES["raw"])
        self._texts = ChatTexts(tokenizer)
        text = self._text([{"role": "user", "content": "Hello"}])
        adds_bos = tokenizer.bos_token_id in tokenizer("Hello")["input_ids"][:1]
        if adds_bos and not text.lstrip().startswith(str(tokenizer.bos_token)):
            tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
            self._texts = ChatTexts(tokenizer)
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
        return _or_raise(self.prompts([messages])[0])

    def prompts(self, conversations: Sequence[Sequence[Message]]) -> list[list[int] | UserError]:
        """Renders many prompts as `prompt` does; the result for a prompt that cannot be rendered is the error."""
        turns = [self._turns(messages) for messages in conversations]
        texts = self._texts.texts(chain.from_iterable(map(_cuts, turns)))
        pieces = [_caught(_prompt_pieces, one, texts) for one in turns]
        return self._encoded(pieces, lambda ids: list(chain.from_iterable(ids)))

    def conversation(self, messages: Sequence[Message], loss_on: Literal["all", "last"] = "all") -> Rendered:
        """Renders a whole conversation; its ids begin with those of `prompt(messages[:-1])`.

        Args:
            messages: A conversation that ends with a turn of the assistant.
            loss_on: Whether every turn of the assistant that answers something is learnt, or only the last.

        Returns:
            The ids, and a mask that is True on every token that is learnt.

        Raises:
            UserError: If there is no answer to learn, or the template refuses the messages or rewrites earlier turns
                so that they cannot all be learnt from one text.
        """
        return _or_raise(self.conversations([messages], loss_on)[0])

    def conversations(
        self, conversations: Sequence[Sequence[Message]], loss_on: Literal["all", "last"] = "all"
    ) -> list[Rendered | UserError]:
        """Renders many conversations as `conversation` does; the result is the error if one cannot be rendered."""
        turns = [self._turns(messages) for messages in conversations]
        asked = (ask for one in turns if len(one) > 1 for ask in (*_cuts(one[:-1]), Asked(one, False)))
        texts = self._texts.texts(asked)
        pieces = [_caught(_conversation_pieces, one, texts, loss_on) for one in turns]
        return self._encoded(pieces, lambda ids: self.labelled(ids, loss_on))

    def labelled(self, pieces: list[list[int]], loss_on: Literal["all", "last"]) -> Rendered:
        """Marks the tokens to learn in a conversation: each answer up to and including its first stop token.

        Args:
            pieces: Ids of prompt, answer, prompt, ..., answer.
            loss_on: Whether all answers are learnt, or only the last.
        """
        ids: list[int] = []
        mask: list[bool] = []
        last = len(pieces) - 1
        for n, piece in enumerate(pieces):
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
            ids: The response, possibly with further ids after its end.

        Returns:
            The text up to the first stop token, without special tokens.
        """
        end = next((n for n, token in enumerate(ids) if token in self.stop_ids), len(ids))
        anchor = self._encoder.anchor_ids
        text = self._decode([*anchor, *ids[:end]]).removeprefix(self._decode(anchor))
        return text if self._keeps_space else text.strip()

    def _encoded(
        self, pieces: Sequence[list[str] | UserError], made: Callable[[list[list[int]]], T]
    ) -> list[T | UserError]:
        """Encodes each text and applies a function to its ids; errors are passed on."""
        ids = iter(self._encoder.encode([one for one in pieces if not isinstance(one, UserError)]))
        return [one if isinstance(one, UserError) else made(next(ids)) for one in pieces]

    def _text(self, messages: Sequence[Message], prompt: bool = False) -> str:
        asked = Asked(self._turns(messages), prompt)
        return _or_raise(self._texts.texts([asked])[asked])

    def _turns(self, messages: Sequence[Message]) -> tuple[Turn, ...]:
        return tuple((message["role"], self._content(message)) for message in messages)

    def _content(self, message: Message) -> str:
        content = message["content"] if self._keeps_space else message["content"].strip()
        return self._control.sub(lambda found: found[0][0] + CUT + found[0][1:], content)

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


def _cuts(turns: tuple[Turn, ...]) -> list[Asked]:
    """Returns the prefixes of a prompt that end where an answer begins or ends, and the whole prompt."""
    # If the assistant speaks first, nothing prompts it, so this greeting is context rather than an answer.
    answers = [n for n, (role, _) in enumerate(turns) if n and role == "assistant"]
    return [
        *(cut for n in answers for cut in (Asked(turns[:n], True), Asked(turns[: n + 1], False))),
        Asked(turns, True),
    ]


def _prompt_pieces(turns: tuple[Turn, ...], texts: dict[Asked, str | UserError]) -> list[str]:
    """Cuts the text of a prompt into prompt, answer, prompt, ..., prompt; one piece if the template rewrites turns."""
    cuts = ["", *(_or_raise(texts[cut]) for cut in _cuts(turns))]
    if not all(after.startswith(before) for before, after in pairwise(cuts)):
        return [cuts[-1]]
    return [after[len(before) :] for before, after in pairwise(cuts)]


def _conversation_pieces(
    turns: tuple[Turn, ...], texts: dict[Asked, str | UserError], loss_on: Literal["all", "last"]
) -> list[str]:
    """Returns the pieces of the prompt, and the last answer with what the template adds after it."""
    if len(turns) < 2 or turns[-1][0] != "assistant":
        raise UserError("there is no token to learn: the conversation must end with an assistant's answer")
    prompt, whole = _prompt_pieces(turns[:-1], texts), _or_raise(texts[Asked(turns, False)])
    prompt_text = "".join(prompt)
    if not whole.startswith(prompt_text):
        raise UserError(
            "the chat template does not begin an answer the way its generation prompt does: it prompts "
            f"with {prompt_text[-60:]!r} and renders {whole[-120:]!r}; set another template"
        )
    if loss_on == "all" and len(prompt) == 1 and len(_cuts(turns[:-1])) > 1:
        raise UserError(
            "the chat template rewrites earlier turns of the assistant, so not all of them can be learnt "
            'from one text; set loss_on="last", or another template'
        )
    return [*prompt, whole[len(prompt_text) :]]


def _or_raise(result: T | UserError) -> T:
    if isinstance(result, UserError):
        raise result
    return result


def _caught(function: Callable[..., T], *arguments: object) -> T | UserError:
    try:
        return function(*arguments)
    except UserError as error:
        return error


def _control_tokens(tokenizer: "PreTrainedTokenizerBase", stop_ids: Sequence[int]) -> re.Pattern[str]:
    added = tokenizer.added_tokens_decoder.items()
    texts = {token.content for number, token in added if token.special or number in stop_ids}
    # A token of one character cannot be split.
    longest_first = sorted((text for text in texts if len(text) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
