"""`python train.py …` is `lightning-rlhf train …`."""

from lightning_rlhf.cli import main

if __name__ == "__main__":
    main("train")
