"""The page that compares runs: a sweep as a picture and as a table, and the answers of several runs side by side."""

from lightning_rlhf.report.comparison.page import compare

__all__ = ["compare"]
