"""The details of published model configurations other than their sizes, written down by hand.

Sources: the papers, and `config.json` beside the weights that each option names; for sizes of ColossalAI's benchmark,
its script. No number of parameters depends on these details, but every output does.
"""

from typing import Any

from transformers import PretrainedConfig

LLAMA_3_2 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA_3_2 |= {"rope_theta": 5e5, "original_max_position_embeddings": 8192}
# For each family: the epsilon of the norms, the activation, the positions, whether the output is tied to the embedding,
# the angles of rotary embeddings, and all other details by their names in transformers.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"eps": 1e-5, "activation": "gelu_new", "positions": 1024, "tied": True},
    "gptj": {"eps": 1e-5, "activation": "gelu_new", "positions": 2048, "tied": False, "rotary_dim": 64},
    "gpt_neox": {
        "eps": 1e-5,
        "activation": "gelu_fast",
        "positions": 2048,
        "tied": False,
        "rope": {"rope_theta": 1e4, "partial_rotary_factor": 0.25},
        "use_parallel_residual": True,
        "attention_bias": True,
    },
    "opt": {"activation": "relu", "positions": 2048, "tied": True, "do_layer_norm_before": True, "enable_bias": True},
    # Positions are distances (ALiBi), and the activation is always the same.
    "bloom": {"eps": 1e-5, "tied": True, "apply_residual_connection_post_layernorm": False},
    "llama": {"eps": 1e-6, "activation": "silu", "positions": 2048, "tied": False, "rope": {"rope_theta": 1e4}},
    "llama2": {"eps": 1e-5, "activation": "silu", "positions": 4096, "tied": False, "rope": {"rope_theta": 1e4}},
    "llama3": {"eps": 1e-5, "activation": "silu", "positions": 8192, "tied": False, "rope": {"rope_theta": 5e5}},
    "qwen2.5": {"eps": 1e-6, "activation": "silu", "positions": 32768, "tied": True, "rope": {"rope_theta": 1e6}},
    "qwen3": {
        "eps": 1e-6,
        "activation": "silu",
        "positions": 40960,
        "tied": False,
        "rope": {"rope_theta": 1e6},
        "attention_bias": False,
    },
    "mistral": {"eps": 1e-5, "activation": "silu", "positions": 32768, "tied": False, "rope": {"rope_theta": 1e6}},
    "gemma": {
        "eps": 1e-6,
        "activation": "gelu_pytorch_tanh",
        "positions": 8192,
        "tied": True,
        "rope": {"rope_theta": 1e4},
    },
    "gemma2": {
        "eps": 1e-6,
        "activation": "gelu_pytorch_tanh",
        "positions": 8192,
        "tied": True,
        "rope": {"rope_theta": 1e4},
        "window": 4096,
        # s is a layer that sees the window only, and f is a layer that sees all positions.
        "layers": "sfsfsfsfsfsf",
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "query_pre_attn_scalar": 256,
    },
    "gemma3": {
        "eps": 1e-6,
        "activation": "gelu_pytorch_tanh",
        "positions": 32768,
        "tied": True,
        "rope": {"sliding_attention": {"rope_theta": 1e4}, "full_attention": {"rope_theta": 1e6}},
        "window": 512,
        "layers": "sssssfsssssf",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "query_pre_attn_scalar": 256,
    },
    "smollm2": {"eps": 1e-5, "activation": "silu", "positions": 8192, "tied": True, "rope": {"rope_theta": 1e5}},
}
# Details in which a size differs from its family.
SIZES: dict[str, dict[str, Any]] = {
    "gpt2/175b": {"positions": 2048},
    "opt/350m": {"do_layer_norm_before": False, "word_embed_proj_dim": 512},
    "llama/65b": {"eps": 1e-5},
    "llama3/1b": {"positions": 131072, "tied": True, "rope": LLAMA_3_2},
    "llama3/3b": {"positions": 131072, "tied": True, "rope": LLAMA_3_2},
    "qwen2.5/1.5b": {"positions": 131072},
    "qwen2.5/7b": {"positions": 131072, "tied": False},
    **{f"qwen2.5/{size}": {"positions": 131072, "tied": False, "eps": 1e-5} for size in ("14b", "32b", "72b")},
    **{f"qwen3/{size}": {"tied": True} for size in ("0.6b", "1.7b", "4b")},
    "gemma2/27b": {"query_pre_attn_scalar": 144},
    # 1 / sqrt(576)
    "smollm2/135m": {"initializer_range": 1 / 24},
    "smollm2/1.7b": {"rope": {"rope_theta": 1.3e5}},
}
# Number of heads, number of heads of keys and values, size of a head.
HEADS: dict[str, dict[str, tuple[int, int, int]]] = {
    "gpt2": {
        **{"small": (12, 12, 64), "medium": (16, 16, 64), "large": (20, 20, 64), "xl": (25, 25, 64)},
        **{"2b": (16, 16, 128), "4b": (16, 16, 144), "175b": (96, 96, 128)},
        **{size: (16, 16, 256) for size in ("6b", "8b", "10b", "12b", "15b", "18b")},
        **{size: (16, 16, 512) for size in ("20b", "24b", "28b", "32b", "36b", "40b")},
    },
    "gptj": {"6b": (16, 16, 256)},
    "gpt_neox": {"20b": (64, 64, 96)},
    "opt": {
        **{"125m": (12, 12, 64), "350m": (16, 16, 64), "1.3b": (32, 32, 64), "2.7b": (32, 32, 80)},
        **{"6.7b": (32, 32, 128), "13b": (40, 40, 128), "30b": (56, 56, 128), "66b": (72, 72, 128)},
        **{"175b": (96, 96, 128), "700m": (20, 20, 64), "3.5b": (32, 32, 96), "5.5b": (32, 32, 120)},
        "10b": (32, 32, 160),
    },
    "bloom": {
        **{"560m": (16, 16, 64), "1b1": (16, 16, 96), "1b7": (16, 16, 128), "3b": (32, 32, 80)},
        **{"7b1": (32, 32, 128), "176b": (112, 112, 128)},
    },
    "llama": {
        **{"7b": (32, 32, 128), "13b": (40, 40, 128), "30b": (52, 52, 128), "33b": (52, 52, 128)},
        "65b": (64, 64, 128),
    },
    "llama2": {"7b": (32, 32, 128), "13b": (40, 40, 128), "70b": (64, 8, 128)},
    "llama3": {"8b": (32, 8, 128), "70b": (64, 8, 128), "1b": (32, 8, 64), "3b": (24, 8, 128)},
    "qwen2.5": {
        **{"0.5b": (14, 2, 64), "1.5b": (12, 2, 128), "3b": (16, 2, 128), "7b": (28, 4, 128)},
        **{"14b": (40, 8, 128), "32b": (40, 8, 128), "72b": (64, 8, 128)},
    },
    "qwen3": {
        **{"0.6b": (16, 8, 128), "1.7b": (16, 8, 128), "4b": (32, 8, 128), "8b": (32, 8, 128)},
        **{"14b": (40, 8, 128), "32b": (64, 8, 128)},
    },
    "mistral": {"7b": (32, 8, 128)},
    "gemma": {"2b": (8, 1, 256), "7b": (16, 16, 256)},
    "gemma2": {"2b": (8, 4, 256), "9b": (16, 8, 256), "27b": (32, 16, 128)},
    "gemma3": {"270m": (4, 1, 256), "1b": (4, 1, 256)},
    "smollm2": {"135m": (9, 3, 64), "360m": (15, 5, 64), "1.7b": (32, 32, 64)},
}


def details(option: str) -> dict[str, Any]:
    """The expected details of a size."""
    family, size = option.split("/")
    common: dict[str, Any] = {"eps": None, "activation": None, "positions": None, "rope": {}, "window": None}
    spread = "init_std" if family == "opt" else "initializer_range"
    found = common | {"layers": "", spread: 0.02} | FAMILIES[family] | SIZES.get(option, {})
    return found | {"heads": HEADS[family][size]}


def details_of(config: PretrainedConfig, names: set[str]) -> dict[str, Any]:
    """Reads the same details from a configuration of transformers.

    Args:
        config: The configuration.
        names: Names of the details to read.
    """
    said = config.to_dict()

    def first(*keys: str) -> Any:
        return next((said[key] for key in keys if said.get(key) is not None), None)

    heads = config.num_attention_heads
    kinds = said.get("layer_types") or []
    found = {
        "eps": first("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps"),
        "activation": first("hidden_activation", "activation_function", "hidden_act"),
        "positions": first("max_position_embeddings", "n_positions"),
        "rope": _rope(said),
        "window": said.get("sliding_window"),
        "layers": "".join(kind[0] for kind in kinds[:12]) if "sliding_attention" in kinds else "",
        "tied": config.tie_word_embeddings,
        "heads": (heads, first("num_key_value_heads") or heads, first("head_dim") or config.hidden_size // heads),
    }
    return found | {name: said[name] for name in names - found.keys()}


def _rope(said: dict[str, Any]) -> dict[str, Any]:
    """The angles of rotary embeddings in the form of transformers 5, without default values."""
    rope = said.get("rope_parameters")
    if rope is None and said.get("rope_local_base_freq"):
        rope = {"sliding_attention": {"rope_theta": said["rope_local_base_freq"]}}
        rope["full_attention"] = {"rope_theta": said["rope_theta"]}
    elif rope is None:
        theta, share = said.get("rope_theta", said.get("rotary_emb_base")), said.get("rotary_pct")
        rope = {"rope_theta": theta, "partial_rotary_factor": share, **(said.get("rope_scaling") or {})}
    nested = {key: _rope({"rope_parameters": value}) for key, value in rope.items() if isinstance(value, dict)}
    rope = rope | nested
    return {key: value for key, value in rope.items() if value not in (None, "default")}
