"""Small real tokenizers that are trained on a few lines."""

import json
from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LINES = [
    "Human: Hello, how are you? Assistant: I am fine, thank you.",
    "user assistant system You are a helpful assistant. What is two plus two? It is four.",
    "The answer to the question is here, and here are more words about it.",
]
MakeTokenizer = Callable[..., PreTrainedTokenizerFast]


def _backend(kind: str, special: list[str]) -> Tokenizer:
    if kind == "bytes":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        # As in Llama 2, a "▁" precedes every text, and every text after a special token.
        backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = [chr(code) for code in range(33, 127)]
        special = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *special]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(LINES, trainer)
    # Trainers can add bytes only as control tokens, but they are ordinary tokens.
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(state))


@pytest.fixture(scope="session")
def make_tokenizer() -> MakeTokenizer:
    """Builds a tokenizer: `kind` is "bytes" (like GPT-2) or "llama" (with "▁"), and `bos` says whether it adds BOS."""

    def make(kind: str = "bytes", *, bos: bool = False, template: str | None = None) -> PreTrainedTokenizerFast:
        backend = _backend(kind, ["<s>", "</s>", "<|im_start|>", "<|im_end|>"])
        if bos:
            backend.post_processor = processors.TemplateProcessing(
                single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
            )
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
        tokenizer.chat_template = template
        return tokenizer

    return make
