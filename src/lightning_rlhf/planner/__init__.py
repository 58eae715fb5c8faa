"""Predicts memory, FLOPs and time of a run from its configuration alone, without reading or creating weights."""
