"""Shows Markdown and code as HTML that cannot do anything.

Answers of models are text that nobody has checked. Three things keep them from acting: HTML in Markdown is escaped and
images are not loaded, a sanitizer lets only plain elements through, and the page's Content-Security-Policy
(`web.access`) forbids scripts, pictures and connections to anywhere else.
"""

from functools import cache

import nh3
from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

_TAGS = {
    *("p", "br", "hr", "strong", "em", "s", "code", "pre", "span", "blockquote", "a"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {"a": {"href", "title"}, "code": {"class"}, "ol": {"start"}, "span": {"class"}}
_SCHEMES = {"http", "https", "mailto"}


def to_html(text: str) -> str:
    """Renders Markdown; a single line end is a line end, as the author of a chat message expects.

    Args:
        text: Any text. HTML in it is shown, and not obeyed.

    Returns:
        HTML of elements without styles or scripts. Colours of code are classes, which `code_css` defines.
    """
    return nh3.clean(
        str(_parser().render(text)),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes=_SCHEMES,
        link_rel="noopener noreferrer nofollow",
    )


@cache
def code_css() -> str:
    """Returns the style sheet of the colours of code, for light and for dark pages."""
    light, dark = (
        "\n".join(HtmlFormatter(style=style).get_token_style_defs("pre")) for style in ("default", "github-dark")
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "highlight": _coloured})
    return parser.enable(["table", "strikethrough"]).disable("image")


def _coloured(code: str, language: str, _: str) -> str:
    """Colours code in a known language; an empty text lets the parser escape the code itself."""
    try:
        lexer = get_lexer_by_name(language) if language else None
    except ClassNotFound:
        lexer = None
    return "" if lexer is None else str(highlight(code, lexer, HtmlFormatter(nowrap=True)))
