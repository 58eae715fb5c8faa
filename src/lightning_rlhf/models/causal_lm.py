"""Causal language models."""

from transformers import AutoModelForCausalLM, PreTrainedModel

from lightning_rlhf.models.source import ModelSource


def load_causal_lm(source: ModelSource) -> PreTrainedModel:
    """Builds a causal language model: pretrained, or with random weights.

    Raises:
        UserError: If it cannot be found or its architecture is not known.
    """
    net, _ = source.build(AutoModelForCausalLM, source.hf_config())
    return net
