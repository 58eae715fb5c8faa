"""The texts of single tokens, for functions that score tokens."""

from collections.abc import Sequence

from lightning_rlhf.data.render import Renderer

# What stands for the bytes of a character that is not complete.
_INCOMPLETE = "\ufffd"


def token_texts(renderer: Renderer, ids: Sequence[int]) -> list[str]:
    """The text that each token of a response adds; together they are the response, but for spaces at its ends.

    A stop token adds nothing. Of a character that takes several tokens, the last one adds it.

    Args:
        renderer: The actor's.
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
    # Each piece is decoded together with the one before it, from `start` on: some tokenizers leave a space out at the
    # beginning of a text.
    start = known = 0
    for end in range(1, length + 1):
        now = text(start, end)
        if now.endswith(_INCOMPLETE) and end < length:
            texts.append("")
        else:
            texts.append(now[len(text(start, known)) :])
            start, known = known, end
    return texts + [""] * (len(ids) - length)
