"""`python -m lightning_rlhf.cli`."""

from lightning_rlhf.cli import main

main()
