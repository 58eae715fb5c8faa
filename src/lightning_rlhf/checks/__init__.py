"""Checks of a run: is what it is about to do what its user means? `train` makes the cheap ones, `doctor` all."""
