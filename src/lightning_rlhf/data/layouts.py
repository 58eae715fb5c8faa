"""The known layouts of data, and how their columns form a conversation."""

from lightning_rlhf.data.fields import Fields, Message, WrongRow, merged

KNOWN_LAYOUTS = """Known layouts:
  prompt, completion [, score]          text, or lists of messages
  messages                              a list of {"role": system|user|assistant, "content": text}
  instruction [, input], output         as in Alpaca
  user_input [, completion] [, score]   as in ChatLLaMA
  prompt, chosen, rejected [, margin]   answers, or whole conversations that begin with the prompt
  chosen, rejected [, margin]           transcripts "\\n\\nHuman: ...\\n\\nAssistant: ...", or lists of messages
  prompt                                text, a list of messages, or a transcript that ends with "\\n\\nAssistant:\""""

# The first of these columns that a row has determines which field contains its answer.
_ANSWERS = {
    "chosen": "chosen",
    "rejected": "chosen",
    "messages": "messages",
    "user_input": "completion",
    "instruction": "output",
    "prompt": "completion",
}


class UnknownLayout(WrongRow):
    """Error about a row whose columns match no known layout."""


def answer_field(fields: Fields) -> str:
    """Returns the name of the field for the answer, whether or not the row has this field.

    Raises:
        UnknownLayout: If the columns match no known layout.
    """
    for column, answer in _ANSWERS.items():
        if column in fields:
            return answer
    raise UnknownLayout(f"columns {', '.join(fields.names()) or '(none)'} are no known layout")


def conversation(fields: Fields, answer: str) -> list[Message]:
    """Reads a conversation up to and including an answer.

    Args:
        fields: The row.
        answer: The field with the answer: the result of `answer_field`, or `rejected`.

    Returns:
        The turns; without the answer if its field is missing and the prompt has a field of its own.

    Raises:
        WrongRow: If a field is missing, is neither text nor messages, or does not fit the prompt.
    """
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
    return merged([*prompt, *turns])


def without_answer(messages: list[Message]) -> list[Message]:
    """Removes the assistant's turn at the end of a conversation, if there is one."""
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def same(one: list[Message], other: list[Message]) -> bool:
    """Checks whether two conversations are equal, apart from whitespace around their turns."""
    return [(turn["role"], turn["content"].strip()) for turn in one] == [
        (turn["role"], turn["content"].strip()) for turn in other
    ]


def _prompt(fields: Fields, answer: str) -> list[Message]:
    """Reads the turns before the answer; returns no turns if they are in the same field as the answer."""
    if answer == "output":
        parts = [fields.text("instruction"), fields.text("input") if "input" in fields else ""]
        return [{"role": "user", "content": "\n\n".join(part for part in parts if part.strip())}]
    name = "user_input" if answer == "completion" and "user_input" in fields else "prompt"
    if answer == "messages" or name not in fields:
        return []
    turns = fields.turns(name, "user")
    if turns[-1]["role"] == "assistant":
        # A transcript that is a prompt ends with an empty "Assistant:" turn.
        if turns[-1]["content"].strip():
            raise WrongRow(f"field '{name}' ends with an assistant turn, expected a user turn")
        turns = turns[:-1]
    return turns
