"""Python and shell lines that load, chat with, and serve an export, for model cards and run cards."""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass

ENDINGS: dict[str, Callable[[str, str], str]] = {
    "": lambda text, eos: text,
    ".rstrip()": lambda text, eos: text.rstrip(),
    " + tokenizer.eos_token": lambda text, eos: text + eos,
    ".rstrip() + tokenizer.eos_token": lambda text, eos: text.rstrip() + eos,
}
"""What turns a conversation that a chat template has rendered into the text that a reward model reads, as Python."""

_CHAT = """\
messages = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
output = model.generate(**inputs.to(model.device), max_new_tokens={max_new_tokens})
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""

_CAUSAL_LM = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

model_dir = {folder}
model = AutoModelForCausalLM.from_pretrained(model_dir)
tokenizer = AutoTokenizer.from_pretrained(model_dir)"""

_ADAPTER = """\
{imports}from peft import PeftModel
from transformers import {model_class}, AutoTokenizer{more}

adapter_dir = {folder}
base = {base}
model = PeftModel.from_pretrained({model_class}.from_pretrained(base{labels}), adapter_dir)
tokenizer = AutoTokenizer.from_pretrained(adapter_dir)"""

_SCORE = """\
messages = [{{"role": "user", "content": "Hello!"}}, {{"role": "assistant", "content": "Hi, how can I help?"}}]
text = tokenizer.apply_chat_template(messages, tokenize=False){ending}"""

_REWARD_MODEL = """\
from transformers import AutoTokenizer, pipeline

model_dir = {folder}
reward = pipeline("text-classification", model=model_dir)
tokenizer = AutoTokenizer.from_pretrained(model_dir)"""


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines of code, each block of which continues the blocks before it."""

    load: str
    """Python that loads the model and its tokenizer."""
    use: str
    """Python that chats with a language model, or scores an answer with a reward model."""
    serve: str
    """Shell lines that start a server."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What the lines depend on."""

    reward_model: bool
    """Whether the export is a reward model, and not a language model."""
    max_new_tokens: int = 256
    """Length limit of the answer."""
    ending: str = ""
    """The code that turns a rendered conversation into the text that a reward model reads, one of `ENDINGS`."""
    score_bias: float = 0.0
    """The constant that a reward model in transformers leaves out of its score."""

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, object], *, reward_model: bool) -> "Usage":
        """Reads what an export tells about its use, as far as it does.

        Args:
            manifest: The manifest of an export, which need not be trusted.
            reward_model: Whether the export is a reward model, if the manifest does not say so.
        """
        told, plain = manifest.get("usage"), cls(reward_model=reward_model)
        known = {name: type(value) for name, value in vars(plain).items()}
        if not isinstance(told, dict) or {name: type(value) for name, value in told.items()} != known:
            return plain
        return cls(**told) if told["ending"] in ENDINGS else plain

    def of_model(self, folder: str) -> Lines:
        """Returns the lines for a whole model.

        Args:
            folder: Folder or hub name of the export.
        """
        if not self.reward_model:
            return Lines(
                load=_CAUSAL_LM.format(folder=json.dumps(folder)),
                use=_CHAT.format(max_new_tokens=self.max_new_tokens),
                serve=f"vllm serve {shlex.quote(folder)}",
            )
        bias = " + reward.model.config.score_bias" if self.score_bias else ""
        return Lines(
            load=_REWARD_MODEL.format(folder=json.dumps(folder)),
            use=f'{self._text}\nprint(reward(text, add_special_tokens=False)[0]["score"]{bias})',
            serve=f"lightning-rlhf serve-reward model_dir={shlex.quote(folder)}",
        )

    def of_adapter(self, folder: str, base: str, *, relative: bool) -> Lines:
        """Returns the lines for an adapter, which peft puts on its base model.

        Args:
            folder: Folder or hub name of the adapter.
            base: The base model, as the adapter names it.
            relative: Whether this is a path that begins at the folder of the adapter.
        """
        path = f"str((Path(adapter_dir) / {json.dumps(base)}).resolve())" if relative else json.dumps(base)
        served, adapter = shlex.quote(f"{folder}/{base}" if relative else base), shlex.quote(folder)
        settings = {
            "imports": "from pathlib import Path\n\n" if relative else "",
            "folder": json.dumps(folder),
            "base": path,
        }
        if not self.reward_model:
            load = _ADAPTER.format(model_class="AutoModelForCausalLM", more=", GenerationConfig", labels="", **settings)
            return Lines(
                load=load + "\nmodel.generation_config = GenerationConfig.from_pretrained(adapter_dir)",
                use=_CHAT.format(max_new_tokens=self.max_new_tokens),
                serve=f"vllm serve {served} --enable-lora --lora-modules adapter={adapter} --tokenizer {adapter}",
            )
        model_class = "AutoModelForSequenceClassification"
        bias = f" + {self.score_bias!r}" if self.score_bias else ""
        return Lines(
            load=_ADAPTER.format(model_class=model_class, more="", labels=", num_labels=1", **settings),
            use=(
                f"{self._text}\n"
                'ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]\n'
                "model.config.pad_token_id = None  # the score is that of the last token\n"
                f"print(float(model(ids.to(model.device)).logits){bias})"
            ),
            serve="lightning-rlhf serve-reward model_dir=../model    # the merged model, beside this folder",
        )

    @property
    def _text(self) -> str:
        return _SCORE.format(ending=self.ending)
