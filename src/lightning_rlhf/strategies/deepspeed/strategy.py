"""DeepSpeed's ZeRO 1, 2 and 3, with offload to the CPU and to NVMe."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import LightningModule
from lightning.pytorch import strategies as lightning_strategies
from lightning.pytorch.accelerators.cpu import CPUAccelerator
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_rlhf.distributed.checkpoint_folders import replacing
from lightning_rlhf.distributed.loading import loading_by
from lightning_rlhf.distributed.shapes import lift_scalars
from lightning_rlhf.distributed.shards import no_inference_mode
from lightning_rlhf.errors import require
from lightning_rlhf.strategies.deepspeed import checkpoint as folder
from lightning_rlhf.strategies.deepspeed import engine_state as state
from lightning_rlhf.strategies.deepspeed import zero3 as zero3
from lightning_rlhf.strategies.deepspeed.checks import check_config, check_cpu, check_settings, silence_libraries
from lightning_rlhf.strategies.deepspeed.clipping import Clipping
from lightning_rlhf.strategies.deepspeed.cpu import connect_on_cpu
from lightning_rlhf.strategies.deepspeed.ops import check_offloaded, choose_accelerator, prepare_disk
from lightning_rlhf.strategies.deepspeed.precision import DTYPES, Precision

# A module's attribute with the strategy whose hooks it has: they outlive `teardown`, because exports come later.
_TRAINED_BY = "_deepspeed_strategy"


class DeepSpeedStrategy(lightning_strategies.DeepSpeedStrategy):
    """Divides the optimizer's state (1), also gradients (2), also weights (3) among all processes, on GPUs or CPUs.

    One engine holds all models of a module, and ZeRO 3 divides frozen models like the others. If a model is loaded
    under ZeRO 3, only the first process reads the weights. A model with random weights is built as a whole by each
    process, on the CPU.
    """

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        *,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        offload_device: Literal["cpu", "nvme"] = "cpu",
        nvme_path: str | None = None,
        gather_for_generation: bool = True,
        zero: Mapping[str, object] | None = None,
        **settings: Any,
    ) -> None:
        """Stores what to divide, and where it rests.

        Args:
            stage: The stage of ZeRO.
            offload_optimizer: Keep the optimizer's state on `offload_device`, and compute its step on the CPU.
            offload_parameters: Keep weights on `offload_device` too; ZeRO 3 only.
            offload_device: The CPU's memory, or an NVMe disk.
            nvme_path: A folder on that disk.
            gather_for_generation: Gather a model that samples once for a rollout; otherwise it is gathered layer by
                layer for each token, which takes less memory and much more time. Only ZeRO 3 has weights to gather.
            zero: Further settings of DeepSpeed's `zero_optimization`.
            **settings: Settings of Lightning's `DeepSpeedStrategy`, such as `config` for a complete configuration.

        Raises:
            UserError: If a value is impossible, or DeepSpeed is not installed.
        """
        require("deepspeed", "deepspeed", f"strategy=deepspeed… (DeepSpeedStrategy, stage={stage})")
        check_settings(stage, offload_parameters, offload_device, nvme_path, settings)
        choose_accelerator()
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
            offload_optimizer_device=offload_device,
            offload_params_device=offload_device,
            **{
                # Otherwise Lightning would ask the loader, which starts a rollout in PPO (`_auto_select_batch_size`).
                "logging_batch_size_per_gpu": 1,
                **({"nvme_path": nvme_path} if nvme_path else {}),
                **settings,
            },
        )
        self._zero = self._config().setdefault("zero_optimization", {})
        self._zero.update(zero or {})
        check_config(self._config())
        self.gather_for_generation = gather_for_generation
        self.engine: Any = None
        self.gathered: set[Tensor] = set()
        self.clipping: Clipping | None = None

    @property
    def shards_parameters(self) -> bool:
        """See `Sharding`."""
        return self.zero_stage_3

    def setup_environment(self) -> None:
        """Connects the processes, after the checks that are possible before models are built.

        Raises:
            UserError: If DeepSpeed does not support a setting of the trainer on the CPU.
        """
        silence_libraries()
        prepare_disk(self._zero)
        previous: DeepSpeedStrategy | None = vars(self._module()).get(_TRAINED_BY)
        if previous is not None:
            previous._release(keep_weights=True)
        self.precision_plugin = Precision(self.precision_plugin.precision)  # type: ignore[arg-type]
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_environment()
        else:
            check_cpu(self.precision_plugin.precision)
            # Lightning's own method accepts only GPUs (strategies/deepspeed/strategy.py, `setup_environment`).
            lightning_strategies.DDPStrategy.setup_environment(self)
        no_inference_mode(self._module().trainer)

    def setup_distributed(self) -> None:
        """Connects the processes."""
        if self.root_device.type == "cpu":
            connect_on_cpu(self)
        else:
            super().setup_distributed()

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Returns the context in which the module builds its models.

        Lightning's `zero.Init` breaks Hugging Face models: they would draw random weights for weights that are divided.
        """
        self._init_config_if_needed()
        # When DeepSpeed reads a third model onto a disk, it ends the process without a message.
        on_disk = self._zero.get("offload_param", {}).get("device") == "nvme"
        divides = self.zero_stage_3 and not on_disk
        reading = partial(zero3.sharded_loading, self._config())
        with loading_by(reading, zero3.writable, zero3.is_spread) if divides else nullcontext():
            yield

    def validation_step(self, *arguments: object, **settings: object) -> Any:
        """Calls the module's `validation_step` directly, because it may sample, and not through the engine."""
        with self.precision_plugin.val_step_context(), self.rollout():
            return self._module().validation_step(*arguments, **settings)

    @contextmanager
    def rollout(self) -> Iterator[None]:
        """See `Sharding`."""
        if self.zero_stage_3:
            zero3.forget_order(self.engine)
        yield

    @contextmanager
    def whole(self, *nets: nn.Module, write: bool) -> Iterator[None]:
        """See `Sharding`."""
        with ExitStack() as stack:
            stack.enter_context(self.rollout())
            if self.zero_stage_3:
                stack.enter_context(zero3.gathering(self.engine, nets, self.gathered, write=write))
            yield
            if write and self.optimizers:
                state.keep_changes(dict.fromkeys(p for net in nets for p in net.parameters() if p.requires_grad))

    def named_weights(self, model: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """See `Sharding`; under mixed precision trained weights are the optimizer's fp32 copies."""
        copies = bool(self.optimizers) and "mixed" in self.precision_plugin.precision
        return state.named_weights(model, copies=copies, gathered=self.gathered)

    def num_parameters(self, net: nn.Module, *, trained: bool = False) -> int:
        """See `Sharding`."""
        return sum(getattr(p, "ds_numel", p.numel()) for p in net.parameters() if p.requires_grad or not trained)

    def trained_weights(self) -> list[Tensor]:
        """See `Sharding`; weights on a disk are out of reach."""
        on_disk = self._zero.get("offload_optimizer", {}).get("device") == "nvme"
        return [] if on_disk else state.fp32_parts(self._module())

    def grad_norms(self) -> dict[str, Tensor] | None:
        """See `Sharding`: the norms are known only after the step."""
        return None

    def last_grad_norms(self) -> dict[str, Tensor] | None:
        """See `Sharding`; None if no step has been taken, or if it was skipped because fp16 gradients overflowed."""
        return None if self.clipping is None else self.clipping.norms(self.root_device)

    def clip_by_role(self, max_norm: float) -> None:
        """See `Sharding`: the step of the engine clips; it has the bound already."""
        assert self.clipping is not None
        self.clipping.by_role = True

    def save_checkpoint(self, checkpoint: dict[str, object], filepath: Any, storage_options: object = None) -> None:
        """Writes a folder; see `deepspeed.checkpoint`."""
        with replacing(Path(self.broadcast(filepath)), self) as partial_folder:
            folder.save(checkpoint, partial_folder, self.engine, self._module())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a folder.

        Raises:
            UserError: If another strategy or another number of processes has written the checkpoint, or if it holds
                other models.
        """
        module, path = self._module(), Path(checkpoint_path)
        folder.check(path, processes=self.world_size, zero3=self.zero_stage_3)
        fitting = module.trainer.state.fn == TrainerFn.FITTING
        return folder.load(path, self.engine, module, with_optimizer=fitting)

    def release(self) -> None:
        """See `Sharding`. DeepSpeed has so many references to an engine that it would outlive the trainer."""
        if self.engine is not None:
            self._release(keep_weights=False)

    def _release(self, *, keep_weights: bool) -> None:
        vars(self.engine.module).pop(_TRAINED_BY)
        state.release(self.engine, keep_weights=keep_weights)
        if self.model is self.engine:
            self.model = None
        self.engine, self.clipping, self.optimizers, self.lr_scheduler_configs = None, None, [], []

    def _setup_model(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        # The engine sends weights as bytes, and a tensor without a dimension cannot be viewed as bytes.
        lift_scalars(model)
        zero3.note_shapes_of_spread(model)
        return model

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: object = None
    ) -> tuple[nn.Module, Optimizer]:
        if self.zero_stage_3:
            zero3.shard(model, self._config(), DTYPES[self.precision_plugin.precision], self.root_device)
        # Lightning passes the index of the device, which a CPU does not have.
        index = self.local_rank if self.root_device.index is None else self.root_device.index
        engine, ds_optimizer = state.initialize(model, optimizer, lr_scheduler, self._config(), index)
        self.engine = engine
        vars(model)[_TRAINED_BY] = self
        self.clipping = Clipping(ds_optimizer) if optimizer is not None else None
        return engine, ds_optimizer

    def _init_optimizers(self) -> tuple[Optimizer, LRSchedulerConfig | None]:
        optimizer, scheduler = super()._init_optimizers()
        check_offloaded(optimizer, self._config())
        return optimizer, scheduler

    def _config(self) -> dict[str, Any]:
        assert isinstance(self.config, dict)
        return self.config

    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module
