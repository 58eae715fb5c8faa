"""Memory, FLOPs and time of a run, from its configuration alone: no weights are read, and none are made."""
