"""Causal language models."""

from transformers import AutoModelForCausalLM, PreTrainedModel

from lightning_rlhf.models.source import ModelSource, load_pretrained


def load_causal_lm(source: ModelSource) -> PreTrainedModel:
    """Builds a causal language model: pretrained, or with random weights.

    Raises:
        UserError: If it cannot be found or its architecture is not known.
    """
    config = source.hf_config()
    kwargs = {"attn_implementation": source.attn_implementation, "trust_remote_code": source.trust_remote_code}
    if source.pretrained is None:
        with source.seeded():
            net = AutoModelForCausalLM.from_config(config, dtype=source.torch_dtype, **kwargs)
    else:
        net = load_pretrained(
            AutoModelForCausalLM,
            source.pretrained,
            source.setting,
            config=config,
            dtype=source.torch_dtype,
            quantization_config=source.quantization_config,
            **kwargs,
        )
    return source.configured(net)
