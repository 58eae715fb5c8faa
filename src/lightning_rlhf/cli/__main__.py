"""`python -m lightning_rlhf.cli`."""

from lightning_rlhf.cli import main

# Launchers that start processes, such as joblib, import this file in them under another name.
if __name__ == "__main__":
    main()
