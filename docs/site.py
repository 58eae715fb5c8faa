"""Hooks of mkdocs: the site has a page for each file of the repository to which the documentation links.

On the disk, and where the repository is hosted, such a link leads out of docs/, and mkdocs knows no such target.
"""

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# A link that leads out of the folder docs/.
OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")
LANGUAGES = {".md": "markdown", ".py": "python", ".toml": "toml", ".yaml": "yaml", ".sbatch": "bash", "": "dockerfile"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each file of the repository to which a page links."""
    texts = [Path(file.abs_src_path or "").read_text(encoding="utf-8") for file in files.documentation_pages()]
    for path in sorted({found[1].rstrip("/") for text in texts for found in OUTSIDE.finditer(text)}):
        files.append(File.generated(config, _page(path), content=_shown(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Makes links out of docs/ lead to these pages."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    return OUTSIDE.sub(lambda found: f"]({_page(found[1].rstrip('/'))})", markdown)


def _page(path: str) -> str:
    return posixpath.join("source", f"{path}.md")


def _shown(path: str) -> str:
    """The text of the page for a file or a folder.

    Raises:
        FileNotFoundError: If a page links to a file that does not exist.
    """
    place = ROOT / path
    if place.is_dir():
        found = sorted(Path(folder, file).relative_to(place) for folder, _, names in os.walk(place) for file in names)
        return f"# {path}\n\n" + "\n".join(f"- `{file.as_posix()}`" for file in found if file.suffix != ".pyc")
    text = place.read_text(encoding="utf-8")
    if place.suffix == ".md":
        # Its links are relative to another folder.
        return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:)[^)]*\)", r"\1", text)
    return f"# {path}\n\n````{LANGUAGES.get(place.suffix, 'text')}\n{text}````\n"
