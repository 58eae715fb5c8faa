"""Runs a script in a process that is prepared as the command line's: `python benchmarks/as_command.py SCRIPT …`."""

import runpy
import sys

from lightning_rlhf.process import prepare_process

if __name__ == "__main__":
    prepare_process()
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
