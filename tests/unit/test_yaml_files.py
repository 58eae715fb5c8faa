"""YAML files whose aliases repeat each other."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from support import command

from lightning_rlhf.errors import UserError
from lightning_rlhf.yaml_files import check_aliases, read_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9)
)


def test_aliases_that_repeat_each_other_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    file.write_text(BOMB)
    with pytest.raises(UserError, match=f"^{file}: its aliases repeat more than 1,000,000 values$"):
        read_yaml(file)


def test_a_command_names_such_a_file_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    (tmp_path / "conf/experiment/bomb.yaml").write_text(BOMB)
    done = command(tmp_path, "--config-dir=conf", "experiment=bomb", "stage=sft")
    assert (done.returncode, done.stderr) == (
        2,
        "error: conf/experiment/bomb.yaml: its aliases repeat more than 1,000,000 values\n",
    )


def test_honest_aliases_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("base: &base {x: 1, y: [2, 3]}\nother: *base\nthird: [*base, *base]\ntext: 'a * b'\n")
    check_aliases(file)
    assert OmegaConf.to_container(read_yaml(file)) == {
        "base": (base := {"x": 1, "y": [2, 3]}),
        "other": base,
        "third": [base, base],
        "text": "a * b",
    }
