"""The texts of single tokens, for functions that score tokens."""

from collections.abc import Sequence

from lightning_rlhf.data.render import Renderer

# This character stands for the bytes of an incomplete character.
_INCOMPLETE = "\ufffd"


def token_texts(renderer: Renderer, ids: Sequence[int]) -> list[str]:
    """Returns the text that each token adds; together the texts are the response, except for spaces at its ends.

    A stop token adds nothing. If a character consists of several tokens, the last of them adds it.

    Args:
        renderer: The renderer of the actor.
        ids: The response, up to and including its stop token if it has one.
    """

    def text(first: int, end: int) -> str:
        decoded = renderer.tokenizer.decode(
            list(ids[first:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert isinstance(decoded, str)
        return decoded

    length = len(ids) - (ids[-1] in renderer.stop_ids)
    texts: list[str] = []
    # Each piece is decoded together with the previous piece, from `start` on, because some tokenizers omit a space at
    # the beginning of a text.
    start = known = 0
    for end in range(1, length + 1):
        now = text(start, end)
        if now.endswith(_INCOMPLETE) and end < length:
            texts.append("")
        else:
            texts.append(now[len(text(start, known)) :])
            start, known = known, end
    return texts + [""] * (len(ids) - length)
