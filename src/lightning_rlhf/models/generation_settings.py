"""The special tokens and the generation settings that an export names, so that others sample from it as in training."""

from collections.abc import Mapping

from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from lightning_rlhf.data.render import Renderer


def name_special_tokens(model: PreTrainedModel, renderer: Renderer, sampling: Mapping[str, object] | None) -> None:
    """Sets special tokens in the configuration of a model, and its generation settings if it can generate.

    Args:
        model: The model, changed in place.
        renderer: Contains the tokenizer and the ids that end an answer.
        sampling: The sampling distribution, by the names of `GenerationConfig`. None keeps the model's own settings;
            they are those of the base model, which may penalize repetition or draw from few tokens.
    """
    stops, tokenizer = list(renderer.stop_ids), renderer.tokenizer
    named: dict[str, int | list[int] | None] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": stops[0] if len(stops) == 1 else stops,
    }
    pad = tokenizer.pad_token_id
    # PyTorch does not build an embedding if PAD lies outside of it.
    held = pad is not None and pad < model.config.get_text_config().vocab_size
    if model.can_generate():
        own = model.generation_config
        settings = (own.to_dict() if own else {}) if sampling is None else dict(sampling)
        # What `generate` writes behind an answer that has ended counts for nothing, so a stop token does as well.
        model.generation_config = GenerationConfig(**{**settings, **named, "pad_token_id": pad if held else stops[0]})
    elif (pad if held else model.config.pad_token_id) in stops:
        # A classifier of transformers reads the score at the last token that is not PAD, which must be the end itself.
        # Without PAD it reads one text at a time, at its last token.
        held, named["pad_token_id"] = False, None
    model.config.update({**named, **({"pad_token_id": pad} if held else {})})


def name_score(config: PretrainedConfig) -> None:
    """Makes transformers' `pipeline("text-classification")` show the score itself, and not its sigmoid."""
    config.update({"problem_type": "regression", "id2label": {0: "reward"}, "label2id": {"reward": 0}})
