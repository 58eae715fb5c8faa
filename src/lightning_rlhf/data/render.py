"""Turns messages into token ids. All stages use the same renderer.

The chat template renders a conversation as text, which is cut where turns begin and end; each piece is tokenized by
itself. The ids of a prompt are therefore always a prefix of the ids of that prompt with an answer, in every stage. They
equal the ids that the tokenizer makes of the whole text, since a server gives those to the exported model.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from lightning_rlhf.data.encoding import PieceEncoder, as_text, control_tokens
from lightning_rlhf.data.messages import Message
from lightning_rlhf.data.pieces import Piece, caught, conversation_pieces, cuts, or_raise, prompt_pieces
from lightning_rlhf.data.stops import check_stops, end_of_turn
from lightning_rlhf.data.templates import TEMPLATES, Asked, ChatTexts, Turn, chosen_template
from lightning_rlhf.data.traits import Traits
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
      (a newline, for example) is not learnt. If the template ends the last answer without a stop token, EOS takes the
      place of the space that it adds.
    - Contents are text, never control tokens: `<|im_end|>` inside a message becomes the tokens of these characters.
    - Contents are stripped, except with the template "raw", which preserves every space of the data.
    - The mask comes from the structure of the conversation. It does not depend on the padding token, which may be EOS.

    Attributes:
        tokenizer: The given tokenizer; its `chat_template` is set to the one in use, so that exports contain it.
        stop_ids: Sorted ids that end an answer: the tokenizer's EOS, the token with which the template ends a turn of
            the assistant, and the given ids.
        traits: What the template does with messages.
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
            template: "plain" (turns begin with "Human:" and "Assistant:"), "raw" (contents and EOS, nothing else), the
                text of a Jinja template, or the path of a file. None takes the tokenizer's own, or "plain".
            stop_ids: Further ids that end an answer, such as the `eos_token_id` list of the generation config.

        Raises:
            UserError: If the tokenizer has no EOS token, if the template does not exist, cannot render a simple
                question or ignores it, or if an id that ends an answer is not a token, or begins a turn.
        """
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no EOS token, so no answer could ever end; set its eos_token")
        self.tokenizer = tokenizer
        known = {tokenizer.eos_token_id, *(stop_ids or ())}
        self._control = control_tokens(tokenizer, known)
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
        end = end_of_turn(tokenizer, self._text)
        self.stop_ids = tuple(sorted(known if end is None else {*known, end}))
        self._control = control_tokens(tokenizer, self.stop_ids)
        self.traits = Traits.of(tokenizer.chat_template, self._text)
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
        return or_raise(self.prompts([messages])[0])

    def prompts(
        self, conversations: Sequence[Sequence[Message]], tools: Sequence[list[Any]] | None = None
    ) -> list[list[int] | UserError]:
        """Renders many prompts as `prompt` does; the result for a prompt that cannot be rendered is its error.

        Args:
            conversations: The conversations up to the turns to be generated.
            tools: Descriptions of the tools of each conversation, if there are any.
        """
        turns = [self._turns(messages) for messages in conversations]
        known = self._known(tools)
        texts = self._texts.texts(chain.from_iterable(map(cuts, turns, known)))
        pieces = [
            caught(lambda one, some: [Piece(text) for text in prompt_pieces(one, texts, some)], *each)
            for each in zip(turns, known, strict=False)
        ]
        return self._encoded(pieces, lambda _, ids: list(chain.from_iterable(ids)))

    def conversation(self, messages: Sequence[Message], loss_on: Literal["all", "last"] = "all") -> Rendered:
        """Renders a whole conversation; its ids begin with those of `prompt(messages[:-1])`.

        Args:
            messages: A conversation that ends with a turn of the assistant.
            loss_on: Whether every answer is learnt, or only the last. A template that rewrites earlier answers allows
                only the last.

        Returns:
            The ids, and a mask that is True on every token that is learnt.

        Raises:
            UserError: If there is no answer to learn, or the template refuses the messages.
        """
        return or_raise(self.conversations([messages], loss_on)[0])

    def conversations(
        self,
        conversations: Sequence[Sequence[Message]],
        loss_on: Literal["all", "last"] = "all",
        tools: Sequence[list[Any]] | None = None,
        *,
        learn_reasoning: bool = True,
    ) -> list[Rendered | UserError]:
        """Renders many conversations as `conversation` does; the result is the error if one cannot be rendered.

        Args:
            conversations: The conversations. Turns whose `train` is False are not learnt.
            loss_on: Whether all answers are learnt, or only the last.
            tools: Descriptions of the tools of each conversation, if there are any.
            learn_reasoning: Whether the thoughts of answers are learnt.
        """
        turns = [self._turns(messages) for messages in conversations]
        known = self._known(tools)
        asked = (
            ask
            for one, some in zip(turns, known, strict=False)
            if len(one) > 1
            for ask in (*cuts(one[:-1], some), Asked(one, False, some))
        )
        texts = self._texts.texts(asked)
        stops = self.tokenizer.convert_ids_to_tokens(list(self.stop_ids))
        masked = [{n for n, turn in enumerate(each) if not turn.get("train", True)} for each in conversations]

        def cut(one: tuple[Turn, ...], some: str, not_learnt: set[int]) -> list[Piece]:
            return conversation_pieces(
                one, texts, some, loss_on=loss_on, masked=not_learnt, learn_reasoning=learn_reasoning, stops=stops
            )

        pieces = [caught(cut, *each) for each in zip(turns, known, masked, strict=False)]
        return self._encoded(pieces, self.labelled)

    def labelled(self, pieces: Sequence[Piece], encoded: Sequence[list[int]]) -> Rendered:
        """Marks the tokens to learn in a conversation: those of each piece to learn, up to its first stop token.

        Args:
            pieces: The pieces of the conversation, which ends with an answer.
            encoded: The ids of each piece.
        """
        ids: list[int] = []
        mask: list[bool] = []
        last = len(pieces) - 1
        for n, ((_, learnt), piece) in enumerate(zip(pieces, encoded, strict=True)):
            end = next((k + 1 for k, token in enumerate(piece) if token in self.stop_ids), None)
            if n == last and end is None:
                piece = [*piece, self.tokenizer.eos_token_id]
                end = len(piece)
            labels = (self._without_space(piece) if end is None else end) if learnt else 0
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

    def _without_space(self, ids: list[int]) -> int:
        """Counts the ids up to the last that is not space; the template adds space after an answer."""
        return next((n for n in range(len(ids), 0, -1) if not self._decode([ids[n - 1]]).isspace()), 0)

    def _encoded(
        self,
        pieces: Sequence[list[Piece] | UserError],
        made: Callable[[Sequence[Piece], list[list[int]]], T],
    ) -> list[T | UserError]:
        """Encodes each text and applies a function to its pieces and ids; errors are passed on."""
        texts = [[piece.text for piece in one] for one in pieces if not isinstance(one, UserError)]
        ids = iter(self._encoder.encode(texts))
        return [one if isinstance(one, UserError) else made(one, next(ids)) for one in pieces]

    def _text(self, messages: Sequence[Message], prompt: bool = False) -> str:
        asked = Asked(self._turns(messages), prompt)
        return or_raise(self._texts.texts([asked])[asked])

    def _turns(self, messages: Sequence[Message]) -> tuple[Turn, ...]:
        return tuple(self._turn(message) for message in messages)

    def _turn(self, message: Message) -> Turn:
        content = as_text(message["content"] if self._keeps_space else message["content"].strip(), self._control)
        others = {key: value for key, value in message.items() if key not in ("role", "content", "train")}
        if not others:
            return (message["role"], content)
        return (message["role"], content, json.dumps(as_text(others, self._control), sort_keys=True))

    def _known(self, tools: Sequence[list[Any]] | None) -> Iterable[str]:
        """The tools of each conversation as JSON."""
        if tools is None:
            return repeat("")
        return [json.dumps(as_text(some, self._control)) if some else "" for some in tools]

    def _decode(self, ids: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text
