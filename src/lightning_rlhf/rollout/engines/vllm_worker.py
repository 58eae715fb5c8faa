"""What a worker of vLLM does in addition, so that it can take weights: vLLM adds the class below to its own.

In process the engine names the class; a server names it with `--worker-extension-cls`, and needs this package.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

EXTENSION = "lightning_rlhf.rollout.engines.vllm_worker.TakesWeights"
"""The name of the class for vLLM."""


class TakesWeights:
    """Methods that vLLM's worker gets; `self` is the worker."""

    reload_weights: Any
    get_model: Any
    model_config: Any
    device: Any

    def take_weights_of(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Loads weights that the process of the worker holds.

        Args:
            weights: Names as in the files of a checkpoint, and tensors.
        """
        self.reload_weights(weights_iterator=weights)
        self._repack_head()

    def take_weights_in(self, folder: str) -> None:
        """Loads weights from files.

        Args:
            folder: A folder with safetensors files, which the worker can read.
        """
        self.reload_weights(weights_path=folder)
        self._repack_head()

    def _repack_head(self) -> None:
        """Renews the packed copy of a tied head, which vLLM does not do on a CPU when weights are loaded again."""
        if self.device.type == "cpu" and self.model_config.hf_text_config.tie_word_embeddings:
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(self.get_model().lm_head, remove_weight=False)
