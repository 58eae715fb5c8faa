"""Callbacks for what a run shows, measures and leaves behind. The package is `lightning_rlhf.callbacks`."""

if __name__ != "lightning_rlhf.callbacks":
    # At the root of a checkout, `import callbacks` would also find this folder, and create each class a second time.
    raise ImportError(f"import 'lightning_rlhf.callbacks', not {__name__!r} (pip install -e . installs it)")

from lightning_rlhf.callbacks.adapter_check import AdapterCheck
from lightning_rlhf.callbacks.adaptive_kl import AdaptiveKL
from lightning_rlhf.callbacks.best import Best
from lightning_rlhf.callbacks.ema import EMA
from lightning_rlhf.callbacks.evaluate_end import EvaluateEnd
from lightning_rlhf.callbacks.export import Export
from lightning_rlhf.callbacks.health import Health
from lightning_rlhf.callbacks.history import History
from lightning_rlhf.callbacks.model_table import NetTable
from lightning_rlhf.callbacks.normalize_reward import NormalizeReward
from lightning_rlhf.callbacks.progress import PhaseProgress
from lightning_rlhf.callbacks.rollout_metrics import RolloutMetrics
from lightning_rlhf.callbacks.run_card import RunCard
from lightning_rlhf.callbacks.run_checkpoint import RunCheckpoint
from lightning_rlhf.callbacks.run_record import RunRecord
from lightning_rlhf.callbacks.sample_preview import SamplePreview
from lightning_rlhf.callbacks.sample_table import SampleTable
from lightning_rlhf.callbacks.start_checks import StartChecks
from lightning_rlhf.callbacks.step_metrics import StepMetrics
from lightning_rlhf.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "AdapterCheck",
    "AdaptiveKL",
    "Best",
    "EvaluateEnd",
    "Export",
    "Health",
    "History",
    "NetTable",
    "NormalizeReward",
    "PhaseProgress",
    "RolloutMetrics",
    "RunCard",
    "RunCheckpoint",
    "RunRecord",
    "SamplePreview",
    "SampleTable",
    "StartChecks",
    "StepMetrics",
    "Throughput",
]
