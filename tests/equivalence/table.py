"""Prints the table of docs/strategies.md, which shows how far each strategy differs from one process.

python tests/equivalence/table.py [strategy …]
"""

import sys
import tempfile
from pathlib import Path

from cases import CASES, go_on, reference, train
from compare import differences, launch, weight_difference
from worker import STAGES


def main(names: list[str]) -> None:
    """Runs the strategies one after the other."""
    print("| strategy | sft | reward | ppo | resumed, in smaller parts | export |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        single = Path(temporary) / "single"
        launch(single, "single", f"start={single}")
        for name in names:
            first, second = Path(temporary) / name, Path(temporary) / f"{name}_resumed"
            expected = reference(name, single, Path(temporary) / f"like_{CASES[name].like}")
            train(name, single, first)
            if CASES[name].resumes:
                go_on(name, single, first, second)
            apart = [max(differences(first, expected, stage).values()) for stage in STAGES]
            resumed = [max(differences(second, first, stage).values()) for stage in STAGES if CASES[name].resumes]
            export = max(weight_difference(first / stage / "model", expected / stage / "model") for stage in STAGES)
            cells = [*(f"{number:.0e}" for number in apart), f"{max(resumed):.0e}" if resumed else "-", f"{export:.0e}"]
            print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
