"""The site of the documentation builds without a warning, loads nothing from elsewhere, and has what it should have."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from doc_blocks import ROOT

import lightning_rlhf


class Loads(HTMLParser):
    """Collects what a browser loads for a page without being asked, and the text that a reader sees."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        loaded = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
        url = found.get(loaded.get(tag, ""))
        # These links tell where other pages are, and load nothing.
        if url and found.get("rel") not in ("canonical", "prev", "next"):
            self.urls.append(url)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def read(page: Path) -> Loads:
    parser = Loads()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= 36
    for page in pages:
        urls = read(page).urls
        assert urls
        assert [url for url in urls if re.match(r"(?:https?:)?//", url)] == []
    styles = "".join(style.read_text(encoding="utf-8") for style in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import\s*)[\"']?(?:https?:)?//", styles) == []


def test_every_page_is_in_the_navigation(site: Path) -> None:
    listed = set(re.findall(r"\b\w+\.md\b", yaml.safe_dump(configured()["nav"])))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")}
    assert {page.stem for page in site.glob("*.html")} - {"404"} == {Path(name).stem for name in listed}


def configured() -> dict[str, object]:
    """The configuration of the site, without what only mkdocs can read."""
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def test_the_api_page_explains_every_public_name(site: Path) -> None:
    html = (site / "api.html").read_text(encoding="utf-8")
    titles = re.findall(r'<h3 id="lightning_rlhf\.[\w.]+?\.(\w+)"', html)
    assert sorted(titles) == sorted(lightning_rlhf.__all__)


def test_a_link_to_a_file_of_the_repository_leads_to_a_page_with_its_text(site: Path) -> None:
    assert 'href="source/src/lightning_rlhf/rollout/dataset.py.html' in (site / "tour.html").read_text(encoding="utf-8")
    shown = read(site / "source" / "src" / "lightning_rlhf" / "rollout" / "dataset.py.html").text
    assert "class RolloutDataset" in shown


def test_fences_and_marks_of_blocks_are_not_shown(site: Path) -> None:
    for page in site.glob("*.html"):
        shown = read(page).text
        assert "```" not in shown, page.name
        assert "not run:" not in shown, page.name
