"""ColossalAI: ZeRO 1 and 2, and Gemini, as a Lightning strategy on ColossalAI's Booster."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_rlhf.distributed.checkpoint_folders import replacing
from lightning_rlhf.distributed.shards import no_inference_mode
from lightning_rlhf.distributed.weight_stream import on_cpu
from lightning_rlhf.errors import UserError
from lightning_rlhf.strategies.colossalai import checkpoint as folder
from lightning_rlhf.strategies.colossalai import cpu as colossalai_cpu
from lightning_rlhf.strategies.colossalai.boost import (
    PLACEMENTS,
    boost,
    check_trainer,
    import_colossalai,
    require_colossalai,
    take_first_process_weights,
)
from lightning_rlhf.strategies.colossalai.frozen import FrozenNets
from lightning_rlhf.strategies.colossalai.gemini import GeminiEngine
from lightning_rlhf.strategies.colossalai.precision import ColossalAIPrecision
from lightning_rlhf.strategies.colossalai.zero import ZeroEngine
from lightning_rlhf.strategies.pickle_checks import check_file


class ColossalAIStrategy(DDPStrategy):
    """Divides the optimizer (stage 1), gradients (2) or weights (3, Gemini) among the processes.

    `DDPStrategy` gives launcher, process group and reductions; the module is not wrapped in DDP. Weights compute in
    fp32, bf16 or fp16 without autocast; the optimizer holds fp32 master weights, which begin as the weights were
    before they were cast.
    """

    strategy_name = "colossalai"

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        placement_policy: Literal["cuda", "cpu", "auto"] = "cuda",
        *,
        gather_for_generation: bool = True,
        plugin: Mapping[str, Any] | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
        start_method: Literal["popen", "spawn", "fork", "forkserver"] = "popen",
    ) -> None:
        """Takes what to divide, and where it rests.

        Args:
            stage: 1 and 2 are ColossalAI's `LowLevelZeroPlugin`, 3 is its `GeminiPlugin`.
            placement_policy: Where the optimizer's state rests, and under Gemini weights too: on the GPU, in the CPU's
                memory (where the optimizer then computes), or, under Gemini only, wherever there is room.
            gather_for_generation: Gather a net that samples once for a rollout; otherwise layer by layer for each
                token. Only Gemini has anything to gather.
            plugin: Further settings of ColossalAI's plugin.
            process_group_backend: As in `DDPStrategy`.
            timeout: As in `DDPStrategy`.
            start_method: As in `DDPStrategy`.

        Raises:
            UserError: If a value is impossible, or ColossalAI is not installed.
        """
        if stage not in (1, 2, 3):
            raise UserError(f"ColossalAIStrategy: stage={stage} must be 1, 2 or 3")
        if placement_policy not in PLACEMENTS or (placement_policy == "auto" and stage != 3):
            raise UserError(
                f"ColossalAIStrategy: placement_policy={placement_policy} must be cuda or cpu, or auto with stage=3"
            )
        require_colossalai("strategy=colossalai… (ColossalAIStrategy)")
        super().__init__(
            precision_plugin=ColossalAIPrecision(),
            process_group_backend=process_group_backend,
            timeout=timeout,
            start_method=start_method,
        )
        self.stage, self.placement_policy, self.settings = stage, placement_policy, dict(plugin or {})
        self.shards_parameters, self.gather_for_generation = stage == 3, gather_for_generation
        self.engine: ZeroEngine | GeminiEngine | None = None

    @property
    def precision(self) -> ColossalAIPrecision:
        """The precision plugin."""
        assert isinstance(self.precision_plugin, ColossalAIPrecision)
        return self.precision_plugin

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Master weights have to be there."""
        return True

    def setup_environment(self) -> None:
        """Connects the processes, and checks what can be checked before nets are built.

        Raises:
            UserError: If the trainer wants what ColossalAI cannot do.
        """
        trainer = self._module().trainer
        # A strategy that brings its precision plugin is not told what the user wants, and Lightning's own would turn
        # fp16 on the CPU into bf16 (accelerator_connector.py, `_check_and_init_precision`).
        self.precision.precision = trainer._accelerator_connector._precision_flag
        check_trainer(trainer, self.stage, self.precision.precision)
        super().setup_environment()
        import_colossalai()
        colossalai_cpu.choose_accelerator(self.root_device, self.stage)

    def _get_process_group_backend(self) -> str:
        given = self._process_group_backend
        if given is None and self.stage == 3 and self.placement_policy != "cuda" and self.root_device.type == "cuda":
            # Frozen nets rest in the CPU's memory there, and `CPUOffloadPolicy` wants a backend for both
            # (torch/distributed/fsdp/_fully_shard/_fsdp_api.py). Not tried on a GPU yet.
            return "cpu:gloo,cuda:nccl"
        return super()._get_process_group_backend()

    def setup(self, trainer: Trainer) -> None:
        """Casts and divides the module, and builds the optimizer.

        Raises:
            UserError: If the module or its optimizer does not fit.
        """
        module = self._module()
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        if any(type(parameter).__name__ == "ColoParameter" for parameter in module.parameters()) or self.engine:
            raise UserError(
                "ColossalAIStrategy: Gemini has divided this module's weights in an earlier run, and does not put them "
                "together again: build a new module and trainer, and give ckpt_path or an export"
            )
        take_first_process_weights(module, self.root_device)
        if trainer.state.fn != TrainerFn.FITTING:
            self.model_to_device()
            return
        self.setup_optimizers(trainer)
        if len(self.optimizers) != 1:
            raise UserError(f"ColossalAIStrategy: {len(self.optimizers)} optimizers; it takes one, with groups")
        frozen = FrozenNets(module) if self.stage == 3 else None
        with frozen.set_aside() if frozen else nullcontext():
            self.engine = self.precision.engine = boost(
                module,
                self.optimizers[0],
                trainer,
                dtype=self.precision.dtype,
                stage=self.stage,
                placement_policy=self.placement_policy,
                settings=self.settings,
                device=self.root_device,
                frozen=frozen,
            )
            # Not before, since a GPU may have no room for what is not divided. Moves metrics, and tells the module.
            self.model_to_device()
        if frozen:
            no_inference_mode(trainer)
            frozen.divide(self.precision.dtype, self.root_device, offload=self.placement_policy != "cuda")

    def training_step(self, *arguments: object, **settings: object) -> Any:
        """Computes the loss."""
        with self._engine().training():
            return super().training_step(*arguments, **settings)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Lets the gradients of an accumulated part of a minibatch stay unreduced."""
        with self._engine().no_sync():
            yield

    def rollout(self) -> AbstractContextManager[None]:
        """See `Sharding`."""
        return self.engine.rollout() if self.engine else nullcontext()

    def whole(self, *nets: nn.Module, write: bool) -> AbstractContextManager[None]:
        """See `Sharding`."""
        return self.engine.whole(nets, write) if self.engine else nullcontext()

    def named_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """See `Sharding`; trained weights are the fp32 masters."""
        return self._named_weights(model, but=())

    def num_parameters(self, net: nn.Module, *, trained: bool = False) -> int:
        """See `Sharding`; a divided weight keeps its shape."""
        return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad or not trained)

    def trained_weights(self) -> list[Tensor]:
        """See `Sharding`: of the fp32 masters."""
        return self.engine.master_parts() if self.engine else []

    def grad_norms(self) -> dict[str, Tensor] | None:
        """See `Sharding`: they are not known before the step."""
        return None

    def last_grad_norms(self) -> dict[str, Tensor] | None:
        """See `Sharding`."""
        return self.precision.last_norms

    def release(self) -> None:
        """See `Sharding`: what `teardown` leaves goes with the module."""

    def clip_by_role(self, max_norm: float) -> None:
        """See `Sharding`: the boosted optimizer's step clips, and knows the bound."""
        self._engine().clipping.by_role = True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights on the first process, for a checkpoint."""
        module = self._module()
        weights = self._named_weights(module, but=getattr(module, "unchanged", tuple)())
        return on_cpu(weights, keep=self.is_global_zero)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: object = None) -> None:
        """Writes a folder; see `colossalai.checkpoint`."""
        rest = dict(checkpoint)
        weights, shares = rest.pop("state_dict"), rest.pop("optimizer_states", [])
        with replacing(Path(self.broadcast(filepath)), self) as partial:
            (partial / folder.OPTIMIZER).mkdir(exist_ok=True)
            for share in shares:
                torch.save(share, partial / folder.optimizer_file(self.global_rank, self.world_size))
            if self.is_global_zero:
                torch.save(weights, partial / folder.WEIGHTS)
                self.checkpoint_io.save_checkpoint(rest, partial / folder.STATE, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a folder.

        Raises:
            UserError: If it is another strategy's checkpoint, is damaged, or could run code.
        """
        path = Path(checkpoint_path)
        if not folder.is_colossalai_checkpoint(path):
            raise UserError(f"checkpoint={path}: no ColossalAI strategy has written it; go on with the one that has")
        check_file(path / folder.STATE)
        state = self.checkpoint_io.load_checkpoint(path / folder.STATE, weights_only=weights_only)
        return state | {"state_dict": folder.read_weights(path), "optimizer_states": [path]}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Sets weights and their masters."""
        if self.engine:
            folder.load_whole_state_dict(self._module(), checkpoint["state_dict"], self.engine, strict)
        else:
            super().load_model_state_dict(checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Sets this process's share."""
        (path,) = checkpoint["optimizer_states"]
        self.optimizers[0].load_state_dict(folder.read_optimizer(path, self.global_rank, self.world_size))

    def on_train_end(self) -> None:
        """Gives whole weights the dtype back that they came in, from the masters."""
        if isinstance(self.engine, ZeroEngine):
            self.engine.restore()

    def teardown(self) -> None:
        """Ends training; exports come after it, and ask Gemini for its weights."""
        if self.engine:
            self.engine.release()
        if isinstance(self.engine, ZeroEngine):
            self.engine = self.precision.engine = None
        module = self._lightning_module
        if self.engine:
            # Lightning would move weights that have no memory of their own.
            self._lightning_module = None
        super().teardown()
        self._lightning_module = module

    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def _engine(self) -> ZeroEngine | GeminiEngine:
        assert self.engine is not None
        return self.engine

    def _named_weights(self, module: nn.Module, but: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
        """See `named_weights`; leaves out the names that begin with one of `but`."""
        state = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if not name.startswith(but)}
        whole = self.engine.whole_weights(state.values()) if self.engine else state.values()
        for name, tensor in zip(state, whole, strict=True):
            # A checkpoint of tensors of ColossalAI's own types could be read with ColossalAI only.
            yield name, tensor.detach().as_subclass(Tensor)
