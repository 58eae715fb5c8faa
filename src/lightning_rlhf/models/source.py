"""The source of a model: a hub name, a folder, or an architecture with random weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lightning_rlhf.distributed.blocks import blocks
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.adapters.active import Checkpointing
from lightning_rlhf.models.adapters.files import load_adapter
from lightning_rlhf.models.adapters.lora import ADAPTER, Lora, inject, is_of_head
from lightning_rlhf.models.fast_layers import speed_up
from lightning_rlhf.models.locations import bare_tokenizer, find_place
from lightning_rlhf.models.meta.checkpoint import is_meta_folder
from lightning_rlhf.models.meta.layout import read_params
from lightning_rlhf.models.pretrained import FAILURES, check_shapes, check_used, in_attention, load_pretrained, reason
from lightning_rlhf.models.quantization import METHODS, quantization_config, quantized, settle

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Describes how to get a model and its tokenizer.

    Attributes:
        pretrained: Hub name, folder or `.gguf` file, also as `pkg://package/path`; None builds `config` at random.
        config: The architecture: `model_type` and the settings of the Hugging Face configuration of that type. It
            contains no ids of special tokens, because they come from the tokenizer.
        config_tokenizer: The tokenizer for `config`, in the format of `tokenizer`; a pretrained model has its own.
        tokenizer: Replaces the model's own tokenizer: hub name, folder, `.gguf` file, or a file `tokenizer.model`.
        meta_dir: Folder of Meta's original LLaMA weights and tokenizer; replaces `pretrained`.
        dtype: The dtype of built and exported weights: float32, bfloat16 or float16; training holds float32.
        dropout: The rate of every dropout. PPO needs 0, so that rollout and update use the same model.
        attn_implementation: eager, sdpa, flash_attention_2 or flex_attention; None is sdpa if it is supported.
        trust_remote_code: Whether to allow Python code from the hub to run.
        gradient_checkpointing: Compute activations within blocks again, for less memory and a third more time.
        compile: Compile each block with torch.compile.
        adapter: The adapter to train beside frozen weights; None trains all weights.
        adapter_dir: Folder of an adapter of `pretrained` to continue training; None starts a new adapter.
        quantization: Keep linear layers in 4 bits (nf4, fp4) or 8 bits (int8); then only an adapter can be trained.
        seed: Seed of random weights: two models from one source are equal, as actor and reference must be.
        setting: The name of the setting `pretrained` in messages.

    Example:
        >>> ModelSource(pretrained="openai-community/gpt2")
    """

    pretrained: str | None = None
    config: Mapping[str, Any] | None = None
    config_tokenizer: str | None = None
    tokenizer: str | None = None
    meta_dir: str | None = None
    dtype: str = "float32"
    dropout: float = 0.0
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    adapter: Lora | None = None
    adapter_dir: str | None = None
    quantization: str | None = None
    seed: int = 0
    setting: str = "model.pretrained"

    def __post_init__(self) -> None:
        """Checks that there is something to load or to build."""
        if self.meta_dir is not None:
            read_params(Path(self.meta_dir).expanduser(), "model.meta_dir")
            # `pretrained` may be set too, because `model=llama/7b` sets it to a copy on the hub.
            vars(self).update(pretrained=self.meta_dir, setting="model.meta_dir")
        if self.dtype not in DTYPES:
            raise UserError(f"model.dtype={self.dtype}: expected one of {', '.join(DTYPES)}")
        if self.quantization not in (None, *METHODS):
            raise UserError(f"model.quantization={self.quantization}: expected one of {', '.join(METHODS)}, or null")
        if self.quantization == "int8" and self.adapter is not None and self.adapter.dora:
            raise UserError(
                "model.quantization=int8 with model.adapter.dora=true: peft lacks this: set nf4, or use plain LoRA"
            )
        if self.adapter_dir is not None and self.adapter is None:
            raise UserError(f"model.adapter_dir={self.adapter_dir}: nothing would train this adapter: add adapter=lora")
        if self.pretrained is None and self.config is None:
            raise UserError(
                "model.pretrained is not set, and model.config has no architecture to build: set one of them"
            )
        if self.pretrained is None and self.tokenizer is None and self.config_tokenizer is None:
            raise UserError("model.tokenizer is not set: a model that is built from scratch has no tokenizer")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return DTYPES[self.dtype]

    def build(
        self, auto: Any, config: PretrainedConfig, spare: tuple[str, ...] = ()
    ) -> tuple[PreTrainedModel, list[str]]:
        """Loads a model of one of transformers' auto classes, or builds it at random, and configures it for training.

        Args:
            auto: An auto class, such as `AutoModelForCausalLM`.
            config: The architecture.
            spare: Prefixes of the names of weights that the files may contain although the model has no such weights.

        Returns:
            The model, and the names of weights that the files did not contain, which are random.

        Raises:
            UserError: If the model cannot be found or loaded, the class has no form of this architecture, or the files
                contain weights that the model does not have.
        """
        settings: dict[str, Any] = {
            "dtype": self.torch_dtype,
            "attn_implementation": self.attn_implementation,
            "trust_remote_code": self.trust_remote_code,
        }
        if self.pretrained is None:
            try:
                with self.seeded():
                    net = auto.from_config(config, **settings)
            except FAILURES as error:
                message = f"model.config{in_attention(self.attn_implementation)}: {reason(error)}"
                if str(error).startswith("Unrecognized configuration class"):
                    kind = auto.__name__.removeprefix("AutoModelFor")
                    message = f"model.config.model_type={config.model_type}: transformers has no {kind} form of it"
                raise UserError(message) from error
            return self.configured(net), [name for name, _ in net.named_parameters()]
        settings |= {"config": config, "quantization_config": self.quantization_config, "output_loading_info": True}
        # Otherwise transformers would only report that some shapes do not fit.
        settings["ignore_mismatched_sizes"] = True
        net, report = load_pretrained(auto, self.pretrained, self.setting, **settings)
        check_shapes(self.setting, self.pretrained, report["mismatched_keys"])
        # A tied weight is not missing if the files contain one of its names. Buffers are computed.
        weights = {name for name, _ in net.named_parameters(remove_duplicate=False)}
        missing = sorted(weights & set(report["missing_keys"]))
        # A model of another kind also lacks weights, and the message about those is more helpful.
        if all(is_of_head(name) for name in missing):
            check_used(self.setting, self.pretrained, report["unexpected_keys"], spare)
        return self.configured(net), missing

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Context that draws random weights from the source's own seed and does not change the global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            yield

    def configured(self, net: PreTrainedModel) -> PreTrainedModel:
        """Returns the model with its settings for training."""
        if self.quantization_config is not None:
            net = quantized(net, self.quantization_config) if getattr(net, "hf_quantizer", None) is None else net
            settle(net)
        if self.adapter_dir is not None:
            load_adapter(net, Path(self.adapter_dir).expanduser(), ADAPTER, self.adapter)
        elif self.adapter is not None:
            with self.seeded():
                inject(net, self.adapter, ADAPTER)
        if self.gradient_checkpointing:
            net.activation_checkpointing_enable({"use_reentrant": False, "context_fn": Checkpointing(net)})
        speed_up(net)
        if self.compile:
            for block in blocks(net):
                # Lengths vary. Of code that blocks share, PyTorch compiles eight versions unless they are isolated.
                block.compile(dynamic=True, isolate_recompiles=True)
        # PyTorch would not train the row of PAD, which may be EOS. This package computes masks from lengths instead.
        embeddings: Any = net.get_input_embeddings()
        embeddings.padding_idx = None
        return net

    @property
    def quantization_config(self) -> BitsAndBytesConfig | None:
        """The configuration with which transformers quantizes the model; None if it is not quantized.

        Raises:
            UserError: If bitsandbytes is not installed.
        """
        return None if self.quantization is None else quantization_config(self.quantization, self.torch_dtype)

    @property
    def frozen(self) -> "ModelSource":
        """The source of a frozen model: the same source without a new adapter."""
        return self if self.adapter_dir else replace(self, adapter=None)

    def trained(self, folder: str | Path) -> "ModelSource":
        """Returns the source of the same kind of model with the weights and the tokenizer of an export."""
        setting = ModelSource.setting
        return replace(self, pretrained=str(folder), tokenizer=None, meta_dir=None, adapter_dir=None, setting=setting)

    def hf_config(self) -> PretrainedConfig:
        """Returns the Hugging Face configuration with its dropouts set.

        Raises:
            UserError: If the folder or the hub has no such model, or the architecture is unknown.
        """
        if self.pretrained is not None:
            config = load_pretrained(
                AutoConfig, self.pretrained, self.setting, trust_remote_code=self.trust_remote_code
            )
        else:
            # The defaults of a configuration class are ids of the tokenizer with which its family was published.
            fields = {**(self.config or {}), **dict.fromkeys(SPECIAL_IDS)}
            try:
                config = AutoConfig.for_model(**fields)
            except (*FAILURES, TypeError) as error:
                raise UserError(f"model.config: {reason(error)}") from error
        for name in vars(config):
            if name.endswith(("dropout", "pdrop", "dropout_prob", "layerdrop")):
                setattr(config, name, self.dropout)
        return config

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Loads the tokenizer.

        Raises:
            UserError: If it cannot be found.
        """
        where = self.tokenizer or self.pretrained or self.config_tokenizer
        assert where is not None  # ensured by __post_init__
        name = "model.tokenizer" if self.tokenizer else self.setting if self.pretrained else "model.config_tokenizer"
        bare = bare_tokenizer(where, name)
        return bare or load_pretrained(AutoTokenizer, where, name, trust_remote_code=self.trust_remote_code)

    def stop_ids(self) -> tuple[int, ...]:
        """Returns the ids that end a response besides the tokenizer's EOS, according to a pretrained model's files.

        They are in its `generation_config.json`, or else in its configuration. A model with random weights has none.
        """
        if self.pretrained is None:
            return ()
        config, place = self.hf_config(), find_place(self.pretrained, self.setting)
        named: Any = config.eos_token_id
        # The configuration of a GGUF file or of Meta's folder is complete; that of a folder may contain class defaults.
        if place.gguf_file is None and not is_meta_folder(Path(place.where)):
            named = PretrainedConfig.get_config_dict(place.where)[0].get("eos_token_id")
            with suppress(OSError):
                named = GenerationConfig.from_pretrained(place.where).eos_token_id
        return tuple(sorted({named} - {None} if not isinstance(named, list) else set(named)))
