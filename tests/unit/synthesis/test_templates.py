"""Files of templates, in YAML and JSON."""

from pathlib import Path

import pytest

from lightning_rlhf.errors import UserError
from lightning_rlhf.synthesis.templates import Templates, read_templates


def test_what_a_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    file = tmp_path / "templates.yaml"
    file.write_text("actor: Be brief.\nrlhf: Be kind.\nreward: How brief is it?\ntopics: [tea, trains]\n")
    found = read_templates(str(file))
    assert found == Templates(actor="Be brief.", rlhf="Be kind.", reward="How brief is it?", topics=("tea", "trains"))
    assert [found.topic(number) for number in range(3)] == ["tea", "trains", "tea"]
    assert read_templates(None) == Templates()


def test_a_file_in_json_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "templates.json"
    file.write_text('{"person": "Ask about {topic} in {{braces}}."}')
    assert read_templates(str(file)).person == "Ask about {topic} in {{braces}}."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[a]", "expected names with texts"),
        ("reward: 3", "reward must be a text, found '3'"),
        ("topics: []", "topics must be a list of texts"),
        ("topics: [1]", "topics must be a list of texts"),
        ("judge: x", "there is no template 'judge'; there are person, assistant, actor, rlhf, reward, topics"),
        ("person: 'You are {name}.'", r"person has \{name\}, but only \{topic\} is filled in"),
        ("assistant: 'Write } well.'", "assistant: Single '}' encountered"),
        ("a: b: c", "cannot be read"),
    ],
)
def test_a_mistake_in_a_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "templates.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=rf"^templates=.*templates.yaml: {message}"):
        read_templates(str(file))


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^templates=.*none.yaml: cannot be read"):
        read_templates(str(tmp_path / "none.yaml"))
