"""Checks whether a run will do what its user means. `train` makes the inexpensive checks, and `doctor` makes all."""
