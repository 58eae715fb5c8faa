"""Names settings in messages as the commands call them that have no group `data`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_rlhf.errors import UserError

_IN_GROUP = re.compile(r"\bdata\.(?=(?:split|columns|config_name|on_error)\b)")


@contextmanager
def without_group() -> Iterator[None]:
    """Context in which errors about data say `split=…` instead of `data.split=…`.

    Raises:
        UserError: The error, with these names.
    """
    try:
        yield
    except UserError as error:
        raise UserError(_IN_GROUP.sub("", str(error))) from error
