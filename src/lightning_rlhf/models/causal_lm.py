"""Causal language models."""

from transformers import AutoModelForCausalLM, PreTrainedModel

from lightning_rlhf.models.pretrained import check_whole
from lightning_rlhf.models.source import ModelSource


def load_causal_lm(source: ModelSource) -> PreTrainedModel:
    """Builds a causal language model, pretrained or with random weights.

    Args:
        source: Where the model comes from.

    Raises:
        UserError: If the model cannot be found, its architecture is unknown, or some of its weights are missing.
    """
    net, missing = source.build(AutoModelForCausalLM, source.hf_config())
    if source.pretrained is not None:
        check_whole(source.setting, source.pretrained, missing)
    return net
