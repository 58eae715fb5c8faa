"""What the pages have in common: templates, data and scripts inside the page, and writing it in a single step."""

import base64
import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lightning_rlhf.report.formatting import decimal, duration
from lightning_rlhf.saving import strict_json

_FOLDER = Path(__file__).parent
_MAX_CHARACTERS = 1200


class Script(NamedTuple):
    """A script inside a page."""

    code: Markup
    policy: str
    """The content security policy of the page: nothing but this script runs, and nothing is loaded from elsewhere."""


@cache
def environment() -> Environment:
    """The templates of the pages, in which all values are escaped."""
    loader = FileSystemLoader(_FOLDER)
    found = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {"clip": clip, "svg": Markup, "decimal": _decimal, "duration": duration, "embed": embed}
    return found


def render_page(template: str, values: dict[str, object], *, styles: tuple[str, ...], scripts: tuple[str, ...]) -> str:
    """Renders a page that needs no other file.

    Args:
        template: Name of the template, which also gets `style` and `script`.
        values: The values of the template.
        styles: Names of style sheets.
        scripts: Names of scripts, in the order in which they run.
    """
    style = "".join((_FOLDER / name).read_text("utf-8") for name in styles)
    return environment().get_template(template).render({**values, "style": Markup(style), "script": _script(scripts)})


def _script(names: tuple[str, ...]) -> Script:
    code = "\n" + "".join((_FOLDER / name).read_text("utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; script-src 'sha256-{digest}'"
    return Script(Markup(code), policy)


def embed(data: object) -> Markup:
    """JSON for a `<script type="application/json">` element, from which no text can break out.

    `<` is the only character that could begin `</script>` or `<!--` there (HTML, section 4.12.1.3).
    """
    return Markup(strict_json(data, ensure_ascii=False).replace("<", "\\u003c"))


def clip(text: str, most: int = _MAX_CHARACTERS) -> str:
    """Cuts a text that has more characters than a page may show of it."""
    return text if len(text) <= most else f"{text[:most]}…"


def _decimal(value: float | None) -> str:
    return "–" if value is None else decimal(value)


def write_page(target: Path, html: str) -> Path:
    """Writes a page in a single step, also if several processes write it.

    Returns:
        The target.
    """
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".report-", suffix=".html")
    try:
        with os.fdopen(handle, "wb") as file:
            # Model output may contain half of a surrogate pair, which UTF-8 cannot encode.
            file.write(html.encode("utf-8", "replace"))
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target
