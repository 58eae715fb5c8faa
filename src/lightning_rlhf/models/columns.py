"""The number of columns for which a `ColumnCache` takes memory. Lengths are in tokens."""

ALIGNMENT = 8
"""PyTorch's memory-efficient attention needs masks whose rows, and whose first column, lie at multiples of 8 elements.
Other rows are copied in every layer, and another first column is an error on some GPUs."""


def aligned(num_columns: int) -> int:
    """The next multiple of the alignment."""
    return num_columns + -num_columns % ALIGNMENT


def first_columns(prompt: int, response: int) -> int:
    """Columns to begin with, for the longest prompt and the longest response.

    Columns of responses that have ended are used again, so a third of the longest prompt and 64 are enough.
    """
    return prompt + min(response, prompt // 3 + 64)


def most_columns(prompt: int, response: int) -> int:
    """Columns that are never exceeded.

    An eighth to spare behind the longest row that is possible makes a step copy at most eight columns on average.
    """
    most = prompt + response
    return most + most // 8 + 1


def more_columns(used: int, now: int, most: int) -> int:
    """Columns to move to when there is no free one behind those in use.

    With a third of what is in use to spare, a step copies three columns on average.

    Args:
        used: Number of columns in use.
        now: Number of all columns so far.
        most: Number that is never exceeded.
    """
    return max(now, min(aligned(used + used // 3 + 16), most))


def columns_taken(prompt: int, response: int, *, rows_join: bool) -> int:
    """The most columns that a batch takes if all prompts and responses are as long as they may be.

    Args:
        prompt: Length of the prompts.
        response: Length of the responses.
        rows_join: Whether rows join later than others. Otherwise this number is exact.
    """
    most = aligned(most_columns(prompt, response))
    if rows_join:
        return most
    columns = aligned(first_columns(prompt, response))
    # The last token of a response is drawn and not read, but the column for it must be there.
    while columns < prompt + response:
        columns = more_columns(columns, columns, most)
    return columns
