"""Causal language models."""

from transformers import AutoModelForCausalLM, PreTrainedModel

from lightning_rlhf.models.pretrained import check_whole
from lightning_rlhf.models.source import ModelSource


def load_causal_lm(source: ModelSource) -> PreTrainedModel:
    """Builds a causal language model: pretrained, or with random weights.

    Raises:
        UserError: If it cannot be found, its architecture is not known, or weights of it are missing.
    """
    net, missing = source.build(AutoModelForCausalLM, source.hf_config())
    if source.pretrained is not None:
        check_whole(source.setting, source.pretrained, missing)
    return net
