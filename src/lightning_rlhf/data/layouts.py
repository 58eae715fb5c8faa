"""The layouts that data come in: which columns make a conversation."""

from lightning_rlhf.data.fields import Fields, Message, WrongRow, merged

KNOWN_LAYOUTS = """Known layouts:
  prompt, completion [, score]          text, or lists of messages
  messages                              a list of {"role": system|user|assistant, "content": text}
  instruction [, input], output         as in Alpaca
  user_input [, completion] [, score]   as in ChatLLaMA
  prompt, chosen, rejected [, margin]   answers, or whole conversations that begin with the prompt
  chosen, rejected [, margin]           transcripts "\\n\\nHuman: ...\\n\\nAssistant: ...", or lists of messages
  prompt                                text, a list of messages, or a transcript that ends with "\\n\\nAssistant:\""""

# The first of these columns that a row has decides where its answer is.
_ANSWERS = {
    "chosen": "chosen",
    "rejected": "chosen",
    "messages": "messages",
    "user_input": "completion",
    "instruction": "output",
    "prompt": "completion",
}


class UnknownLayout(WrongRow):
    """A row whose columns are none of the known layouts."""


def answer_field(fields: Fields) -> str:
    """Names the field that the answer is in, be it there or not.

    Raises:
        UnknownLayout: If the columns are none of the known layouts.
    """
    for column, answer in _ANSWERS.items():
        if column in fields:
            return answer
    raise UnknownLayout(f"columns {', '.join(fields.names()) or '(none)'} are no known layout")


def conversation(fields: Fields, answer: str) -> list[Message]:
    """Reads a conversation up to and including an answer.

    Args:
        fields: The row.
        answer: The field with the answer: that of `answer_field`, or `rejected`.

    Returns:
        The turns; without the answer if the field is missing and the prompt has a field of its own.

    Raises:
        WrongRow: If a field is missing, or is neither text nor messages, or does not fit to the prompt.
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
    """The conversation without the assistant's turn at its end, if it has one."""
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def same(one: list[Message], other: list[Message]) -> bool:
    """Says whether two conversations are equal but for the space around their turns."""
    return [(turn["role"], turn["content"].strip()) for turn in one] == [
        (turn["role"], turn["content"].strip()) for turn in other
    ]


def _prompt(fields: Fields, answer: str) -> list[Message]:
    """The turns in front of the answer, or none if they are in the same field."""
    if answer == "output":
        parts = [fields.text("instruction"), fields.text("input") if "input" in fields else ""]
        return [{"role": "user", "content": "\n\n".join(part for part in parts if part.strip())}]
    name = "user_input" if answer == "completion" and "user_input" in fields else "prompt"
    if answer == "messages" or name not in fields:
        return []
    turns = fields.turns(name, "user")
    if turns[-1]["role"] == "assistant":
        # A transcript that is to be gone on with ends with a bare "Assistant:".
        if turns[-1]["content"].strip():
            raise WrongRow(f"field '{name}' ends with an assistant turn, expected a user turn")
        turns = turns[:-1]
    return turns
