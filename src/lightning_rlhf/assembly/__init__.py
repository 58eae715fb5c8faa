"""Turns a configuration into a run. The commands call these functions, and Python users may call them too."""
