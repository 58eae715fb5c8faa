"""The run card: one self-contained page that shows what a run did and how to repeat it."""

from lightning_rlhf.report.page import write_report

__all__ = ["write_report"]
