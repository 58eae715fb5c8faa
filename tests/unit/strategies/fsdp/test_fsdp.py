"""FSDP 1 and 2 in two processes, and one process that continues from their checkpoint, beside an unsharded run."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch.callbacks import ModelCheckpoint
from support import free_port, tiny_source, trainer
from torch import Tensor, nn
from torch.distributed.fsdp import ShardingStrategy
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_rlhf.distributed.clipping import grad_norms
from lightning_rlhf.distributed.phases import full_state_dict, num_parameters, rollout_phase, whole
from lightning_rlhf.errors import UserError
from lightning_rlhf.models.causal_lm import load_causal_lm
from lightning_rlhf.models.forward import hidden_states, label_logprobs
from lightning_rlhf.models.scalar import load_scalar_model
from lightning_rlhf.models.source import ModelSource
from lightning_rlhf.modules.checkpoint import fill_in, leave_out
from lightning_rlhf.modules.optim import Optim, configure, undo_averaging
from lightning_rlhf.rewards.net import NetReward
from lightning_rlhf.strategies.fsdp.checkpoint import is_distributed_checkpoint, read_weights
from lightning_rlhf.strategies.fsdp.fsdp1 import FSDPStrategy
from lightning_rlhf.strategies.fsdp.fsdp2 import FSDP2Strategy

# These tests train in two processes.
pytestmark = pytest.mark.slow

STRATEGIES: dict[str, Callable[..., Any]] = {"fsdp": FSDPStrategy, "fsdp2": FSDP2Strategy}
# GPT-2 ties its embedding to its head.
SOURCE = ModelSource(
    config={
        "model_type": "gpt2",
        "vocab_size": 33,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 16,
        "n_positions": 32,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
    tokenizer="none",
)
IDS = torch.arange(8 * 12).reshape(8, 12) * 7 % 33
MASK = torch.ones_like(IDS, dtype=torch.bool)


class Module(pl.LightningModule):
    """Trains an actor and a critic; a reward model and the bias of the critic are frozen."""

    def configure_model(self) -> None:
        if not hasattr(self, "actor"):
            self.actor = load_causal_lm(SOURCE)
            torch.manual_seed(1)
            self.critic = load_scalar_model(SOURCE, "normal")
            self.critic.bias.requires_grad_(False)
            self.reward = NetReward(load_scalar_model(SOURCE, "normal")).requires_grad_(False)
            self.norms: list[float] = []
            self.logprobs: list[Tensor] = []

    def train_dataloader(self) -> Any:
        """Gives two minibatches of four rows, of which each process has its parts."""
        parts = self.trainer.accumulate_grad_batches
        size = 4 // (self.trainer.world_size * parts)
        starts = [4 * step + (self.global_rank * parts + part) * size for step in range(2) for part in range(parts)]
        return DataLoader([IDS[start : start + size] for start in starts], batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader([IDS], batch_size=None)  # type: ignore[arg-type]

    def training_step(self, ids: Tensor, batch_idx: int) -> Tensor:
        logprobs = self.score(ids)
        self.logprobs.append(logprobs.detach())
        loss = -logprobs.sum() / 44 + self.critic(ids, torch.ones_like(ids, dtype=torch.bool)).square().sum() / 48
        return loss * undo_averaging(self.trainer)

    def score(self, ids: Tensor) -> Tensor:
        mask = torch.ones_like(ids, dtype=torch.bool)
        return label_logprobs(self.actor, ids, mask, mask)

    def validation_step(self, ids: Tensor, batch_idx: int) -> None:
        """Calls a model without a phase and with one."""
        scores = self.reward.net.scores(ids, MASK)
        with rollout_phase(self.trainer, self):
            self.scores = torch.stack([scores, self.reward.net.scores(ids, MASK)])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        norms = grad_norms(self.trainer, optimizer)
        assert norms is not None
        self.norms += map(float, norms.values())

    def configure_optimizers(self) -> Any:
        # A large epsilon shows how gradients were scaled, and hides those that are only rounding noise.
        optim = Optim(optimizer=partial(torch.optim.AdamW, lr=0.0, eps=1e-3), weight_decay=0.5)
        return configure(self, optim, {"actor": (self.actor, 1e-2), "critic": (self.critic, 3e-2)})

    def unchanged(self) -> tuple[str, ...]:
        return ("reward.",)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        leave_out(checkpoint, self.unchanged())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        fill_in(checkpoint, self.unchanged(), self)


class Probe(pl.Callback):
    """Asks for everything that a strategy must provide."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        first = next(iter(module.train_dataloader()))
        self.facts["groups"] = [len(group["params"]) for group in trainer.optimizers[0].param_groups]
        self.facts["sizes"] = [num_parameters(trainer, module.critic, trained=only) for only in (False, True)]
        with whole(trainer, module.critic), torch.no_grad():
            # This is a part of a model, before the model itself was ever called.
            self.facts["hidden"] = hidden_states(module.critic.net.base_model, IDS, MASK)
        with rollout_phase(trainer, module):
            self.facts["rollout"], scores = (
                [module.score(IDS), module.score(first)],
                module.reward.net.scores(IDS, MASK),
            )
        with rollout_phase(trainer, module, generator=module.actor):
            # This happens twice, since what was called must still be whole, and on one rank alone.
            if trainer.is_global_zero:
                self.facts["alone"] = [module.score(IDS) for _ in range(2)]
            self.facts["whole"] = [*module.score(first), *map(torch.clone, module.actor.parameters())]
        with whole(trainer, module.reward, write=True), torch.no_grad():
            module.reward.net.normalize(scores)
            if trainer.is_global_zero:
                self.facts["written"] = module.reward.net.scores(IDS, MASK)

    def on_train_end(self, trainer: pl.Trainer, module: Any) -> None:
        weights = {name: full_state_dict(trainer, net) for name, net in module.named_children()}
        # A scalar is sharded as a vector.
        self.facts["weights"] = {
            f"{child}.{name}": torch.atleast_1d(w) for child, net in weights.items() for name, w in net.items()
        }
        self.facts["norms"], self.facts["scores"], self.facts["logprobs"] = module.norms, module.scores, module.logprobs


def run(folder: Path, strategy: Any, checkpoint: Path | None = None, **settings: Any) -> dict[str, Any]:
    """Makes two epochs of two steps, with clipping."""
    probe, saving = Probe(), ModelCheckpoint(folder, "{epoch}", save_top_k=-1, enable_version_counter=False)
    settings = {
        "max_epochs": 2,
        "limit_val_batches": 1,
        "gradient_clip_val": 0.1,
        "enable_checkpointing": True,
        "use_distributed_sampler": False,
    } | settings
    module, fitting = Module(), trainer(folder, probe, saving, strategy=strategy, **settings)
    fitting.fit(module, ckpt_path=checkpoint)
    fitting.validate(module, verbose=False)
    return probe.facts | {"scores after": module.scores, "inference mode": fitting.validate_loop.inference_mode}


class Other(Module):
    """A weight outside all models, in a dtype of its own, which neither strategy can shard."""

    def configure_model(self) -> None:
        super().configure_model()
        self.temperature = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))


class Rotary(Module):
    """A model with rotary embeddings, whose frequencies are buffers."""

    def configure_model(self) -> None:
        if not hasattr(self, "actor"):
            self.actor = load_causal_lm(tiny_source())

    def training_step(self, ids: Tensor, batch_idx: int) -> Tensor:
        self.frequencies = {name: buffer.clone() for name, buffer in self.actor.named_buffers()}
        self.dtypes = {weight.dtype for weight in self.actor.parameters()}
        return -self.score(ids).mean()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Asks for nothing."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 1e-3)


def two_processes(folder: Path, strategy: Callable[..., Any]) -> dict[str, Any]:
    """Trains in fp32 with accumulated parts, and then in mixed precision, which replaces the first checkpoints."""
    facts = run(folder, strategy(), devices=2, accumulate_grad_batches=2)
    facts["mixed"] = run(folder / "mixed", strategy(), devices=2, precision="bf16-mixed", max_epochs=1)
    run(folder / "mixed", strategy(), devices=2, precision="bf16-mixed", max_epochs=1)
    with pytest.raises(UserError) as error:
        trainer(folder, strategy=strategy(), devices=2).fit(Other())
    return facts | {"refused": str(error.value)}


def one_process(folder: Path, strategy: Callable[..., Any]) -> dict[str, Any]:
    """Continues from the first epoch."""
    return run(folder / "one", strategy(), folder / "epoch=0.ckpt")


def _rank(rank: int, work: Callable[..., Any], port: int, folder: Path, name: str) -> None:
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.save(work(folder, STRATEGIES[name]), folder / f"{work.__name__}_{rank}.pt")


def spawn(work: Callable[..., Any], folder: Path, name: str, ranks: int) -> list[dict[str, Any]]:
    """Reads what each rank found."""
    mp.spawn(_rank, (work, free_port(), folder, name), nprocs=ranks)
    return [torch.load(folder / f"{work.__name__}_{rank}.pt") for rank in range(ranks)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(tmp_path_factory.mktemp("plain"), "auto")


@pytest.fixture(scope="module", params=STRATEGIES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp(name)


@pytest.fixture(scope="module")
def ranks(name: str, folder: Path) -> list[dict[str, Any]]:
    return spawn(two_processes, folder, name, 2)


def test_two_processes_learn_what_one_learns(ranks: list[dict[str, Any]], plain: dict[str, Any]) -> None:
    """This includes decay of matrices alone, clipping, and parts of a minibatch."""
    for rank in ranks:
        assert rank["norms"] == pytest.approx(plain["norms"], rel=1e-5)
        assert_close(rank["scores"], plain["scores"])
        assert_close(rank["scores after"], plain["scores"])
    assert_close(ranks[0]["weights"], plain["weights"], rtol=1e-5, atol=1e-5)
    assert ranks[1]["weights"] == {}


def test_sizes_and_groups_are_those_of_whole_weights(ranks: list[dict[str, Any]], plain: dict[str, Any]) -> None:
    for rank in ranks:
        assert (rank["sizes"], rank["groups"]) == (plain["sizes"], plain["groups"])


def test_nets_answer_between_training_steps(ranks: list[dict[str, Any]], plain: dict[str, Any]) -> None:
    for rank in ranks:
        assert_close(rank["rollout"][0], plain["rollout"][0])
        assert_close(rank["hidden"], plain["hidden"])


def test_one_rank_alone_calls_a_net_that_is_whole(ranks: list[dict[str, Any]], plain: dict[str, Any]) -> None:
    assert_close(ranks[0]["alone"], plain["alone"])
    for rank in ranks:
        assert_close(rank["whole"][-len(list(load_causal_lm(SOURCE).parameters())) :], plain["whole"][44:])


def test_what_is_written_to_a_whole_net_stays(ranks: list[dict[str, Any]], plain: dict[str, Any]) -> None:
    assert_close(ranks[0]["written"], plain["written"])
    assert_close(ranks[0]["weights"]["reward.net.bias"], plain["weights"]["reward.net.bias"])


def test_rollout_and_update_see_the_same_in_mixed_precision(ranks: list[dict[str, Any]]) -> None:
    """They are equal bit for bit, because PPO's first ratio must be 1."""
    for rank in ranks:
        first = rank["mixed"]["logprobs"][0]
        assert torch.equal(rank["mixed"]["rollout"][1], first)
        assert torch.equal(torch.stack(rank["mixed"]["whole"][: len(first)]), first)


def test_mixed_precision_writes_whole_precision(ranks: list[dict[str, Any]], plain: dict[str, Any]) -> None:
    """Weights that nothing was written to are equal to the bit."""
    name = "reward.net.net.transformer.wte.weight"
    assert torch.equal(ranks[0]["mixed"]["weights"][name], plain["weights"][name])


def test_fsdp2_validates_without_inference_mode(name: str, ranks: list[dict[str, Any]]) -> None:
    """Weights first gathered in inference mode cannot be trained; Lightning knows this of gloo and FSDP1 only."""
    assert name == "fsdp" or not any(rank["inference mode"] for rank in ranks)


def test_a_checkpoint_is_read_without_the_processes_that_wrote_it(
    ranks: list[dict[str, Any]], folder: Path, plain: dict[str, Any]
) -> None:
    checkpoint = folder / "epoch=1.ckpt"
    assert is_distributed_checkpoint(checkpoint)
    weights = {k: w for k, w in plain["weights"].items() if not k.startswith("reward.")}
    assert_close(read_weights(checkpoint), weights, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_takes_the_place_of_another(ranks: list[dict[str, Any]], folder: Path) -> None:
    assert [path.name for path in (folder / "mixed").iterdir()] == ["epoch=0.ckpt"]
    assert not is_distributed_checkpoint(folder)


def test_one_process_goes_on_where_two_were(name: str, ranks: list[dict[str, Any]], folder: Path) -> None:
    (resumed,) = spawn(one_process, folder, name, 1)
    # These are the norms of actor and critic in the last two of four steps.
    assert resumed["norms"] == pytest.approx(ranks[0]["norms"][4:], rel=1e-5)
    trained = {k: w for k, w in ranks[0]["weights"].items() if not k.startswith("reward.")}
    assert_close({k: resumed["weights"][k] for k in trained}, trained, rtol=1e-5, atol=1e-5)


def rotary(folder: Path, strategy: Callable[..., Any]) -> dict[str, Any]:
    """Returns rotary frequencies and dtypes of weights in training."""
    exact, module = dict(load_causal_lm(tiny_source()).named_buffers()), Rotary()
    trainer(folder, strategy=strategy(), precision="bf16-true", limit_train_batches=1).fit(module)
    return {"exact": exact, "frequencies": module.frequencies, "dtypes": module.dtypes}


def test_with_weights_in_bf16_frequencies_keep_their_digits(name: str, tmp_path: Path) -> None:
    (found,) = spawn(rotary, tmp_path, name, 1)
    assert {buffer.dtype for buffer in found["exact"].values()} == {torch.float32}
    assert found["dtypes"] == {torch.bfloat16}
    assert_close(found["frequencies"], found["exact"], rtol=0, atol=0)


def test_what_cannot_be_sharded_is_refused(name: str, ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert ("temperature" if name == "fsdp2" else "torch.bfloat16") in rank["refused"]


@pytest.mark.parametrize(
    ("strategy", "training", "words"),
    [
        ({"cpu_offload": True}, {}, "cpu_offload"),
        ({}, {"precision": "16-mixed"}, "fp16"),
        ({}, {"precision": "16-true"}, "fp16"),
    ],
)
def test_fsdp_refuses_what_it_cannot_do_on_a_cpu(
    strategy: dict[str, Any], training: dict[str, Any], words: str, tmp_path: Path
) -> None:
    module = Module()
    with pytest.raises(UserError, match=words):
        trainer(tmp_path, strategy=FSDPStrategy(**strategy), **training).fit(module)
    assert not hasattr(module, "actor")


@pytest.mark.parametrize("divided", ["HYBRID_SHARD", "hybrid_shard", ShardingStrategy._HYBRID_SHARD_ZERO2])
def test_fsdp_divides_among_all_processes(divided: Any) -> None:
    with pytest.raises(UserError, match="(?i)sharding_strategy=_?HYBRID_SHARD.*: set FULL_SHARD or SHARD_GRAD_OP"):
        FSDPStrategy(sharding_strategy=divided)


@pytest.mark.parametrize("setting", [{"use_orig_params": False}, {"state_dict_type": "full"}])
def test_fsdp_keeps_names_and_shares_of_weights(setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        FSDPStrategy(**setting)
