"""A researcher with sixty questions and answers of their own, who has never used this package."""

import json
import re
import shlex
from pathlib import Path

import pytest
from support import command, result_of, run_folder

pytestmark = pytest.mark.slow

MODEL = ["model=tiny", "experiment=none", "data=files"]
ROWS = [
    {"question": f"What do I do if lamp number {n} is broken?", "answer": f"Take lamp {n} back to the shop."}
    for n in range(60)
]
REWARD = """
def mentions_the_shop(prompts, responses):
    return [float("shop" in response) {operator} len(prompt) for prompt, response in zip(prompts, responses)]
"""


def test_from_a_file_of_ones_own_to_a_model_that_transformers_loads(tmp_path: Path) -> None:
    (tmp_path / "lamps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    # The names of the columns are unknown. The message has the line that maps them, and nothing is left behind.
    first = command(tmp_path, *MODEL, "stage=sft", "data.path=lamps.jsonl")
    assert (first.returncode, first.stdout) == (2, "")
    (line,) = re.findall("Name the fields of your data: (.*)", first.stderr)
    assert not list(tmp_path.glob("outputs/*/*"))

    # With that line, sixty rows are enough, and one warning says what was adapted.
    (columns,) = shlex.split(line)
    done = command(tmp_path, *MODEL, "stage=sft", "data.path=lamps.jsonl", columns, "sft.trainer.max_epochs=2")
    assert done.returncode == 0, done.stderr
    printed = done.stdout + done.stderr
    assert "60 rows read" in printed
    assert printed.count("minibatch_size=64") == 1

    run = run_folder(tmp_path)
    result = result_of(run)
    assert result["status"] == "finished"
    assert result["metrics"]["loss"] > 0
    assert "60 rows read" in (run / "train.log").read_text()
    card = (run / "report.html").read_text()
    assert "Load the model" in card
    assert "lamps.jsonl" in card
    model_card = (run / "model" / "README.md").read_text()
    assert model_card.startswith("---\n")
    assert str(tmp_path) not in model_card

    # A reward function with a mistake is told in the user's own lines; without it, PPO starts from the model.
    (tmp_path / "my_rewards.py").write_text(REWARD.format(operator="/ 0 *"))
    ppo = [
        *MODEL,
        "stage=ppo",
        "data.path=lamps.jsonl",
        columns,
        f"model.pretrained={run / 'model'}",
        "reward=function",
        "reward.function=my_rewards:mentions_the_shop",
        "ppo.trainer.max_epochs=1",
        "ppo.module.rollout_batch_size=8",
        "ppo.module.minibatch_size=8",
        "rollout.sampling.max_new_tokens=8",
    ]
    wrong = command(tmp_path, *ppo)
    assert wrong.returncode == 2, wrong.stderr
    assert "mentions_the_shop" in wrong.stderr
    assert "my_rewards.py" in wrong.stderr
    assert "ZeroDivisionError" in wrong.stderr
    assert "lightning/pytorch" not in wrong.stderr
    (tmp_path / "my_rewards.py").write_text(REWARD.format(operator="*"))
    right = command(tmp_path, *ppo)
    assert right.returncode == 0, right.stderr
    assert "Score of the function mentions_the_shop" in (run_folder(tmp_path) / "report.html").read_text()
