"""The known layouts of data, and how their columns form a conversation."""

from lightning_rlhf.data.fields import Fields, Message, WrongRow
from lightning_rlhf.data.messages import tidied

# The first of these columns that a row has determines the fields for its answer, of which it has one or none.
_ANSWERS = {
    "chosen": ("chosen",),
    "rejected": ("chosen",),
    "messages": ("messages",),
    "conversations": ("conversations",),
    "user_input": ("completion",),
    "instruction": ("output", "response"),
    "prompt": ("completion",),
}
_WHOLE = ("messages", "conversations")


def answer_field(fields: Fields) -> str | None:
    """Returns the name of the field for the answer, whether or not the row has it; None if no layout is known."""
    for column, answers in _ANSWERS.items():
        if column in fields:
            return next((answer for answer in answers if answer in fields), answers[0])
    return None


def conversation(fields: Fields, answer: str) -> list[Message]:
    """Reads a conversation up to and including an answer.

    The columns `system` and `history` become turns before the others.

    Args:
        fields: The row.
        answer: The field with the answer: the result of `answer_field`, or `rejected`.

    Returns:
        The turns; without the answer if its field is missing and the prompt has a field of its own.

    Raises:
        WrongRow: If a field is missing, is neither text nor messages, or does not fit the prompt.
    """
    turns = _turns(fields, answer)
    if "history" in fields:
        begin = int(turns[0]["role"] == "system")
        turns[begin:begin] = _history(fields, answer)
    system = fields.text("system", context=True).strip() if "system" in fields else ""
    if system and turns[0]["role"] == "system":
        if turns[0]["content"].strip() != system:
            raise WrongRow("field 'system' differs from the system turn of the conversation, so one of them is wrong")
    elif system:
        turns = [Message(role="system", content=system), *turns]
    return tidied(turns, fields.notes)


def without_answer(messages: list[Message]) -> list[Message]:
    """Removes the assistant's turn at the end of a conversation, if there is one."""
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def same(one: list[Message], other: list[Message]) -> bool:
    """Checks whether two conversations are equal, apart from whitespace around their turns."""
    return [_bare(turn) for turn in one] == [_bare(turn) for turn in other]


def _bare(turn: Message) -> dict[str, object]:
    return {**turn, "content": turn["content"].strip(), "train": None}


def _turns(fields: Fields, answer: str) -> list[Message]:
    prompt = _prompt(fields, answer)
    if not prompt:
        return fields.turns(answer, "user")
    if answer not in fields:
        return prompt
    whole = fields.turns(answer, "user")
    if len(whole) > len(prompt) and same(whole[: len(prompt)], prompt):
        return whole
    turns = fields.turns(answer, "assistant")
    if turns[0]["role"] != "assistant":
        raise WrongRow(
            f"field '{answer}' begins with a {turns[0]['role']} turn that is not in the prompt, "
            "expected the answer alone, or the whole conversation from the prompt on"
        )
    return [*prompt, *turns]


def _prompt(fields: Fields, answer: str) -> list[Message]:
    """Reads the turns before the answer; returns no turns if they are in the same field as the answer."""
    if answer in ("output", "response"):
        parts = [fields.text("instruction"), *(_added(fields, name) for name in ("input", "context"))]
        return [{"role": "user", "content": "\n\n".join(part for part in parts if part.strip())}]
    if answer in _WHOLE:
        return []
    name = "user_input" if answer == "completion" and "user_input" in fields else "prompt"
    if name not in fields and "conversations" in fields:
        name = "conversations"
    if name not in fields:
        return []
    turns = fields.turns(name, "user")
    if turns[-1]["role"] == "assistant":
        # A transcript that is a prompt ends with an empty "Assistant:" turn.
        if turns[-1]["content"].strip():
            raise WrongRow(f"field '{name}' ends with an assistant turn, expected a user turn")
        turns = turns[:-1]
    return turns


def _added(fields: Fields, name: str) -> str:
    return fields.text(name, context=True) if name in fields else ""


def _history(fields: Fields, answer: str) -> list[Message]:
    """Reads earlier turns, which are pairs of a question and its answer as in Alpaca's data."""
    pairs = fields.items("history")
    if pairs and answer in _WHOLE:
        raise WrongRow(f"field 'history' stands beside '{answer}', which should contain all turns: put it there")
    turns: list[Message] = []
    for number, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise WrongRow(f"field 'history[{number}]' is not a pair of a question and its answer")
        turns += [Message(role="user", content=pair[0]), Message(role="assistant", content=pair[1])]
    return turns
