"""ColossalAI's ZeRO 1 and 2 and Gemini as a Lightning strategy, built on ColossalAI's Booster."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_rlhf.distributed.checkpoint_folders import replacing
from lightning_rlhf.distributed.shards import no_inference_mode
from lightning_rlhf.distributed.weight_stream import on_cpu
from lightning_rlhf.strategies.colossalai import checkpoint as folder
from lightning_rlhf.strategies.colossalai import checks
from lightning_rlhf.strategies.colossalai import cpu as colossalai_cpu
from lightning_rlhf.strategies.colossalai.boost import boost, import_colossalai, take_first_process_weights
from lightning_rlhf.strategies.colossalai.engine import Engine, named_weights
from lightning_rlhf.strategies.colossalai.frozen import FrozenNets
from lightning_rlhf.strategies.colossalai.precision import ColossalAIPrecision
from lightning_rlhf.strategies.colossalai.zero import ZeroEngine


class ColossalAIStrategy(DDPStrategy):
    """Divides the optimizer (stage 1), gradients (2) or weights (3, Gemini) among the processes.

    `DDPStrategy` gives launcher, process group and reductions; the module is not wrapped in DDP. Weights compute in
    fp32, bf16 or fp16 without autocast. The optimizer holds fp32 master weights, which start as the weights before the
    cast.
    """

    strategy_name = "colossalai"

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        placement_policy: Literal["cuda", "cpu", "auto"] = "cuda",
        *,
        gather_for_generation: bool = True,
        plugin: Mapping[str, object] | None = None,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
        start_method: Literal["popen", "spawn", "fork", "forkserver"] = "popen",
    ) -> None:
        """Stores what to divide, and where it rests.

        Args:
            stage: 1 and 2 select ColossalAI's `LowLevelZeroPlugin`, 3 its `GeminiPlugin`.
            placement_policy: Where the optimizer's state rests, and under Gemini the weights too: on the GPU, in the
                CPU's memory (where the optimizer then computes), or, under Gemini only, wherever there is room.
            gather_for_generation: Gather a model that samples once for a rollout; otherwise it is gathered layer by
                layer for each token. Only Gemini has weights to gather.
            plugin: Further settings of ColossalAI's plugin.
            process_group_backend: As in `DDPStrategy`.
            timeout: As in `DDPStrategy`.
            start_method: As in `DDPStrategy`.

        Raises:
            UserError: If a value is impossible, or ColossalAI is not installed.
        """
        checks.check_settings(stage, placement_policy)
        super().__init__(
            precision_plugin=ColossalAIPrecision(),
            process_group_backend=process_group_backend,
            timeout=timeout,
            start_method=start_method,
        )
        self.stage, self.placement_policy, self.settings = stage, placement_policy, dict(plugin or {})
        self.shards_parameters, self.gather_for_generation = stage == 3, gather_for_generation
        self.engine: Engine | None = None

    @property
    def precision(self) -> ColossalAIPrecision:
        """The precision plugin."""
        assert isinstance(self.precision_plugin, ColossalAIPrecision)
        return self.precision_plugin

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """True, because a checkpoint is loaded into the master weights, which the setup creates."""
        return True

    def setup_environment(self) -> None:
        """Connects the processes, after the checks that are possible before models are built.

        Raises:
            UserError: If ColossalAI does not support a setting of the trainer.
        """
        trainer = self._module().trainer
        # Lightning does not pass the user's choice to a strategy with its own precision plugin, and Lightning's own
        # plugin would turn fp16 on the CPU into bf16 (accelerator_connector.py, `_check_and_init_precision`).
        self.precision.precision = trainer._accelerator_connector._precision_flag
        checks.check_trainer(trainer, self.stage, self.precision.precision)
        super().setup_environment()
        import_colossalai()
        colossalai_cpu.choose_accelerator(self.root_device, self.stage)

    def _get_process_group_backend(self) -> str:
        given = self._process_group_backend
        if given is None and self.stage == 3 and self.placement_policy != "cuda" and self.root_device.type == "cuda":
            # Frozen models then rest in the CPU's memory, and `CPUOffloadPolicy` needs a backend for both devices
            # (torch/distributed/fsdp/_fully_shard/_fsdp_api.py). This has not been run on a GPU yet.
            return "cpu:gloo,cuda:nccl"
        return super()._get_process_group_backend()

    def setup(self, trainer: Trainer) -> None:
        """Builds the optimizer, and casts and divides the module.

        Raises:
            UserError: If the module or its optimizer does not fit.
        """
        module = self._module()
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        checks.check_undivided(module, self.engine)
        take_first_process_weights(module, self.root_device)
        if trainer.state.fn != TrainerFn.FITTING:
            self.model_to_device()
            return
        self.setup_optimizers(trainer)
        checks.check_one_optimizer(self.optimizers)
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
            # Moves metrics and sets the module's device. A GPU may have no room for the module before it is divided.
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
        """Skips the reduction of gradients for all but the last accumulated part of a minibatch."""
        with self._engine().no_sync():
            yield

    def rollout(self) -> AbstractContextManager[None]:
        """See `Sharding`."""
        return self.engine.rollout() if self.engine else nullcontext()

    def whole(self, *nets: nn.Module, write: bool) -> AbstractContextManager[None]:
        """See `Sharding`."""
        return self.engine.whole(nets, write) if self.engine else nullcontext()

    def named_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """See `Sharding`; trained weights are the fp32 master weights."""
        return named_weights(self.engine, model)

    def num_parameters(self, net: nn.Module, *, trained: bool = False) -> int:
        """See `Sharding`; a divided weight keeps its shape."""
        return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad or not trained)

    def trained_weights(self) -> list[Tensor]:
        """See `Sharding`: parts of the fp32 master weights."""
        return self.engine.master_parts() if self.engine else []

    def grad_norms(self) -> dict[str, Tensor] | None:
        """See `Sharding`: the norms are known only after the step."""
        return None

    def last_grad_norms(self) -> dict[str, Tensor] | None:
        """See `Sharding`."""
        return self.precision.last_norms

    def release(self) -> None:
        """See `Sharding`: memory that `teardown` does not free is freed with the module."""

    def clip_by_role(self, max_norm: float) -> None:
        """See `Sharding`: the step of the boosted optimizer clips; it has the bound already."""
        self._engine().clipping.by_role = True

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """Returns whole weights for a checkpoint on the first process, and nothing on the others."""
        module = self._module()
        weights = named_weights(self.engine, module, skip=getattr(module, "unchanged", tuple)())
        return on_cpu(weights, keep=self.is_global_zero)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: object = None) -> None:
        """Writes a folder; see `colossalai.checkpoint`."""
        with replacing(Path(self.broadcast(filepath)), self) as partial:
            folder.save(checkpoint, partial, self, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a folder.

        Raises:
            UserError: If another strategy has written the checkpoint, or it is damaged or could run code.
        """
        return folder.load(Path(checkpoint_path), self.checkpoint_io, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Sets weights and their master weights."""
        if self.engine:
            folder.load_whole_state_dict(self._module(), checkpoint["state_dict"], self.engine, strict)
        else:
            super().load_model_state_dict(checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Sets this process's share of the optimizer's state."""
        (path,) = checkpoint["optimizer_states"]
        self.optimizers[0].load_state_dict(folder.read_optimizer(path, self.global_rank, self.world_size))

    def on_train_end(self) -> None:
        """Gives whole weights their original dtypes and the numbers of the master weights."""
        if isinstance(self.engine, ZeroEngine):
            self.engine.restore()

    def teardown(self) -> None:
        """Ends training. Exports come later and need the weights, so the engine of Gemini is kept."""
        if self.engine:
            self.engine.release()
        if isinstance(self.engine, ZeroEngine):
            self.engine = self.precision.engine = None
        module = self._lightning_module
        if self.engine:
            # Lightning would move the weights, which have no memory of their own under Gemini.
            self._lightning_module = None
        super().teardown()
        self._lightning_module = module

    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module

    def _engine(self) -> Engine:
        assert self.engine is not None
        return self.engine
