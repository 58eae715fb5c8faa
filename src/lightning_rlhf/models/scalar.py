"""Language models that give a number for each token: the reward model and the critic.

The model is Hugging Face's `…ForSequenceClassification` with one label, so an export is a plain folder that
transformers, vLLM and other trainers load. Only its backbone and its head are called. Its own forward finds the last
token by comparing ids with PAD, which is wrong if PAD is EOS or absent.

Shapes: B rows, T tokens, R response tokens, D hidden size.
"""

from abc import ABC, abstractmethod
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel

from lightning_rlhf.distributed.loading import writable
from lightning_rlhf.errors import UserError
from lightning_rlhf.experience import Sequences
from lightning_rlhf.models.adapters.lora import HEADS, heads
from lightning_rlhf.models.forward import hidden_states
from lightning_rlhf.models.pretrained import OUTPUTS, check_whole
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.ops.rewards import last_token_index

HeadInit = Literal["normal", "zero", "trained"]


class ScalarHead(nn.Linear):
    """A linear layer that computes in fp32, even under autocast or with weights in 16 bits.

    In bfloat16, scores would have three digits, and many scores of a batch would be equal.
    """

    def forward(self, hidden: Tensor) -> Tensor:
        """See `nn.Linear`.

        Args:
            hidden: (…, D).

        Returns:
            (…, 1) in fp32.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float())


class Scalar(nn.Module, ABC):
    """A linear head on the hidden state of each token, and a bias."""

    head: ScalarHead
    """(1, D) weights."""
    bias: nn.Parameter
    """A scalar tensor."""

    @property
    def called(self) -> tuple[nn.Module, ...]:
        """The modules that hold its weights; a strategy gathers each of them when it is called."""
        return (self,)

    @property
    @abstractmethod
    def hf_config(self) -> PretrainedConfig:
        """The configuration of the model below the head."""

    @abstractmethod
    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Computes the (B, T, D) hidden states that the head reads."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Computes a number for each token.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T) bool.

        Returns:
            (B, T) in fp32.
        """
        return self.head(self.hidden_states(input_ids, attention_mask))[..., 0] + self.bias.float()

    def scores(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Computes the number at the last real token of each row.

        Returns:
            (B,) in fp32.
        """
        per_token = self(input_ids, attention_mask)
        return per_token.gather(1, last_token_index(attention_mask)[:, None])[:, 0]

    def values(self, sequences: Sequences) -> Tensor:
        """Computes the number before each response token, i.e. the critic's estimate when the token is chosen.

        Returns:
            (B, R) in fp32.
        """
        num_responses = sequences.response_mask.shape[1]
        return self(sequences.input_ids, sequences.attention_mask)[:, -num_responses - 1 : -1]

    @torch.no_grad()
    def normalize(self, scores: Tensor) -> None:
        """Shifts and scales head and bias so that these scores would have mean 0 and standard deviation 1.

        Source: Ziegler et al. (2019), section 2.1, which normalises on samples of the initial policy.

        Args:
            scores: (N,) scores that this model has given.

        Raises:
            UserError: If there are fewer than two scores, or all are equal.
        """
        if len(scores) < 2 or not scores.std() > 0:
            raise UserError(
                f"the reward model gives {len(scores)} reference samples the same score: it has learnt nothing to "
                "normalise; train it longer or look at the pairs"
            )
        mean, std = scores.mean(), scores.std(correction=0)
        self.head.weight.div_(std)
        self.bias.copy_((self.bias - mean) / std)


class ScalarModel(Scalar):
    """A backbone, a linear head on each token, and a bias.

    Hugging Face's heads have no bias, so an export puts it into the last norm. If that norm has no bias either, the
    configuration holds it as `score_bias`, and transformers gives scores without it (`models/score_bias.py`).
    """

    def __init__(self, net: PreTrainedModel) -> None:
        """Wraps a `…ForSequenceClassification` model with one label."""
        super().__init__()
        self.net = net
        put_head(net)
        self.bias = nn.Parameter(
            torch.tensor(float(getattr(net.config, "score_bias", 0.0)), dtype=self.head.weight.dtype)
        )

    @property
    def head(self) -> ScalarHead:  # type: ignore[override]
        """The linear layer of the model, whose name depends on the family."""
        return cast(ScalarHead, heads(self.net)[0])

    @property
    def hf_config(self) -> PretrainedConfig:
        """See `Scalar`."""
        return self.net.config

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """See `Scalar`."""
        return hidden_states(self.net.base_model, input_ids, attention_mask)


def put_head(net: PreTrainedModel) -> None:
    """Replaces a model's own head by a `ScalarHead` with the same weights."""
    for name in HEADS:
        old = getattr(net, name, None)
        if old is not None:
            with torch.device("meta"):
                new = ScalarHead(old.in_features, 1, bias=False)
            new.weight = old.weight
            setattr(net, name, new.train(old.training))


def load_scalar_model(source: ModelSource, head: HeadInit) -> ScalarModel:
    """Builds a scalar model on the backbone of any causal language model or scalar model.

    Args:
        source: Where the backbone comes from.
        head: `normal` draws the head from N(0, 1/sqrt(D + 1)) (Stiennon et al., 2020), for a reward model in
            training; `zero` is for a critic; `trained` requires the head that the folder contains.

    Raises:
        UserError: If the model cannot be found, its family has no scalar form, weights of the backbone are missing, or
            the folder contains no head for `trained`.
    """
    config = source.hf_config()
    config.num_labels = 1
    net, missing = source.build(AutoModelForSequenceClassification, config, spare=OUTPUTS)
    model = ScalarModel(net)
    if head == "trained":
        if missing:
            raise UserError(
                f"{source.pretrained} is not a trained reward model: it has no weights for {', '.join(missing[:3])}"
            )
        return model
    if source.pretrained is not None:
        own = {f"{name}.weight" for name in HEADS}
        check_whole(source.setting, source.pretrained, [name for name in missing if name not in own])
    std = 0.0 if head == "zero" else (model.head.in_features + 1) ** -0.5
    with writable(model.head.weight):
        nn.init.normal_(model.head.weight, std=std)
    nn.init.zeros_(model.bias)
    return model


def load_reward_model(path: str, dtype: str = "float32") -> ScalarModel:
    """Loads an exported reward model, which must contain its trained head.

    Args:
        path: Folder of the export, or its hub name.
        dtype: The dtype of its weights; see `ModelSource`.

    Raises:
        UserError: If the folder is not a trained reward model.
    """
    return load_scalar_model(ModelSource(pretrained=path, dtype=dtype, setting="reward.path"), "trained")
