"""Where a model comes from: a hub name, a folder, or an architecture to fill with random weights."""

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
from lightning_rlhf.models.locations import bare_tokenizer, find_place
from lightning_rlhf.models.meta.checkpoint import is_meta_folder
from lightning_rlhf.models.meta.layout import read_params
from lightning_rlhf.models.pretrained import FAILURES, check_shapes, check_used, in_attention, load_pretrained, reason
from lightning_rlhf.models.quantization import METHODS, quantization_config, quantized, settle

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """How to get a model and its tokenizer.

    Example:
        >>> ModelSource(pretrained="openai-community/gpt2")
    """

    pretrained: str | None = None
    """Hub name, folder or `.gguf` file, perhaps `pkg://package/path`; None builds `config` with random weights."""
    config: Mapping[str, Any] | None = None
    """The architecture: `model_type` and whatever the Hugging Face configuration of that type takes.

    Ids of special tokens are not part of it: they are the tokenizer's.
    """
    config_tokenizer: str | None = None
    """The tokenizer that belongs to `config`, as `tokenizer` names one; a pretrained model brings its own."""
    tokenizer: str | None = None
    """Takes the place of the model's own: hub name, folder, `.gguf` file, or a file `tokenizer.model`."""
    meta_dir: str | None = None
    """Folder of Meta's original LLaMA weights and tokenizer; takes the place of `pretrained`."""
    dtype: str = "float32"
    """Of the weights as they are built and exported: float32, bfloat16 or float16; trained ones are held in float32."""
    dropout: float = 0.0
    """Set on every dropout of the architecture. PPO needs 0, since rollout and update must see the same net."""
    attn_implementation: str | None = None
    """What transformers knows: eager, sdpa, flash_attention_2, flex_attention; None is sdpa if the family has it."""
    trust_remote_code: bool = False
    """Whether Python code from the hub may run."""
    gradient_checkpointing: bool = False
    """Keep only the activations between blocks, and compute the others again: less memory, a third more time."""
    compile: bool = False
    """Compile each block with torch.compile."""
    adapter: Lora | None = None
    """What is trained, beside weights that are not; None trains all weights."""
    adapter_dir: str | None = None
    """Folder of a trained adapter of `pretrained`, which training goes on with; None begins a new one."""
    quantization: str | None = None
    """Keep the weights of linear layers in 4 bits (nf4, fp4) or 8 (int8); only an adapter can be trained then."""
    seed: int = 0
    """Of random weights: two nets from one source are equal, as actor and reference have to be."""
    setting: str = "model.pretrained"
    """What messages call `pretrained`."""

    def __post_init__(self) -> None:
        """Checks that there is something to load or to build."""
        if self.meta_dir is not None:
            read_params(Path(self.meta_dir).expanduser(), "model.meta_dir")
            # `model=llama/7b` names a copy on the hub.
            vars(self).update(pretrained=self.meta_dir, setting="model.meta_dir")
        if self.dtype not in DTYPES:
            raise UserError(f"model.dtype={self.dtype}: expected one of {', '.join(DTYPES)}")
        if self.quantization not in (None, *METHODS):
            raise UserError(f"model.quantization={self.quantization}: expected one of {', '.join(METHODS)}, or null")
        if self.quantization == "int8" and self.adapter is not None and self.adapter.dora:
            raise UserError(
                "model.quantization=int8 with model.adapter.dora=true: peft cannot: take nf4, or plain LoRA"
            )
        if self.adapter_dir is not None and self.adapter is None:
            raise UserError(f"model.adapter_dir={self.adapter_dir}: nothing would train that adapter: add adapter=lora")
        if self.pretrained is None and self.config is None:
            raise UserError(
                "model.pretrained is not set, and model.config has no architecture to build: set one of them"
            )
        if self.pretrained is None and self.tokenizer is None and self.config_tokenizer is None:
            raise UserError("model.tokenizer is not set: a model that is built from scratch brings none")

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return DTYPES[self.dtype]

    def build(
        self, auto: Any, config: PretrainedConfig, spare: tuple[str, ...] = ()
    ) -> tuple[PreTrainedModel, list[str]]:
        """A net of one of transformers' auto classes, as it is for training: loaded, or with random weights.

        Args:
            auto: Such as `AutoModelForCausalLM`.
            config: The architecture.
            spare: Beginnings of the names of weights that the files may hold in vain.

        Returns:
            The net, and the names of weights that were not there to load, and are random.

        Raises:
            UserError: If it cannot be found or loaded, the class has no form of this architecture, or the files hold
                weights that the net has no place for.
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
        # transformers would only say that there are shapes that do not fit.
        settings["ignore_mismatched_sizes"] = True
        net, report = load_pretrained(auto, self.pretrained, self.setting, **settings)
        check_shapes(self.setting, self.pretrained, report["mismatched_keys"])
        # Tied weights are not missing where one of them was there; buffers are computed.
        weights = {name for name, _ in net.named_parameters(remove_duplicate=False)}
        missing = sorted(weights & set(report["missing_keys"]))
        # A net of another kind lacks weights too, which says more.
        if all(is_of_head(name) for name in missing):
            check_used(self.setting, self.pretrained, report["unexpected_keys"], spare)
        return self.configured(net), missing

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Draws random weights from the source's own seed and leaves the global generator as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            yield

    def configured(self, net: PreTrainedModel) -> PreTrainedModel:
        """The same net, with its settings for training."""
        if self.quantization_config is not None:
            net = quantized(net, self.quantization_config) if getattr(net, "hf_quantizer", None) is None else net
            settle(net)
        if self.adapter_dir is not None:
            load_adapter(net, Path(self.adapter_dir).expanduser(), ADAPTER, self.adapter)
        elif self.adapter is not None:
            with self.seeded():
                inject(net, self.adapter, ADAPTER)
        if self.gradient_checkpointing:
            # The second name came with transformers 5, which warns of the first.
            enable = getattr(net, "activation_checkpointing_enable", net.gradient_checkpointing_enable)
            enable({"use_reentrant": False, "context_fn": Checkpointing(net)})
        if self.compile:
            for block in blocks(net):
                # Each batch has a length of its own, and each token of a response one more.
                block.compile(dynamic=True)
        # PyTorch would not train the row of this token. Masks come from lengths here, and PAD may be EOS.
        embeddings: Any = net.get_input_embeddings()
        embeddings.padding_idx = None
        return net

    @property
    def quantization_config(self) -> BitsAndBytesConfig | None:
        """What transformers takes to load the net quantized, if it is to be.

        Raises:
            UserError: If bitsandbytes is not installed.
        """
        return None if self.quantization is None else quantization_config(self.quantization, self.torch_dtype)

    @property
    def frozen(self) -> "ModelSource":
        """The same without a new adapter: where a net that is not trained comes from."""
        return self if self.adapter_dir else replace(self, adapter=None)

    def trained(self, folder: str | Path) -> "ModelSource":
        """The same kind of model with the weights and the tokenizer of an export."""
        setting = ModelSource.setting
        return replace(self, pretrained=str(folder), tokenizer=None, meta_dir=None, adapter_dir=None, setting=setting)

    def hf_config(self) -> PretrainedConfig:
        """The Hugging Face configuration, with its dropouts set.

        Raises:
            UserError: If the folder or the hub has no such model, or the architecture is not known.
        """
        if self.pretrained is not None:
            config = load_pretrained(
                AutoConfig, self.pretrained, self.setting, trust_remote_code=self.trust_remote_code
            )
        else:
            # The defaults of a class are ids of the tokenizer that its family was published with.
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
        """The tokenizer.

        Raises:
            UserError: If it cannot be found.
        """
        where = self.tokenizer or self.pretrained or self.config_tokenizer
        assert where is not None  # or there would be no such source
        name = "model.tokenizer" if self.tokenizer else self.setting if self.pretrained else "model.config_tokenizer"
        bare = bare_tokenizer(where, name)
        return bare or load_pretrained(AutoTokenizer, where, name, trust_remote_code=self.trust_remote_code)

    def stop_ids(self) -> tuple[int, ...]:
        """Ids that end a response beside the tokenizer's EOS: those that a pretrained model's own files name.

        They stand in its `generation_config.json`, or else in its configuration. A net that is built has none.
        """
        if self.pretrained is None:
            return ()
        config, place = self.hf_config(), find_place(self.pretrained, self.setting)
        named: Any = config.eos_token_id
        # A GGUF file and Meta's folders hold all that there is to know; a folder's class may add defaults of its own.
        if place.gguf_file is None and not is_meta_folder(Path(place.where)):
            named = PretrainedConfig.get_config_dict(place.where)[0].get("eos_token_id")
            with suppress(OSError):
                named = GenerationConfig.from_pretrained(place.where).eos_token_id
        return tuple(sorted({named} - {None} if not isinstance(named, list) else set(named)))
