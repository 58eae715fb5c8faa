"""DeepSpeed's ZeRO 1, 2 and 3, with offload to the CPU and to NVMe."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch import LightningModule
from lightning.pytorch import strategies as lightning_strategies
from lightning.pytorch.accelerators.cpu import CPUAccelerator
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_rlhf.distributed.checkpoint_folders import replacing
from lightning_rlhf.distributed.loading import loading_by
from lightning_rlhf.distributed.shapes import lift_scalars
from lightning_rlhf.errors import UserError, require
from lightning_rlhf.strategies.deepspeed import checkpoint as folder
from lightning_rlhf.strategies.deepspeed import engine_state as state
from lightning_rlhf.strategies.deepspeed import zero3 as zero3
from lightning_rlhf.strategies.deepspeed.checks import check_cpu, check_settings, silence_libraries
from lightning_rlhf.strategies.deepspeed.clipping import Clipping
from lightning_rlhf.strategies.deepspeed.ops import (
    COMMUNICATION,
    check_offloaded,
    choose_accelerator,
    load_op,
    prepare_disk,
)
from lightning_rlhf.strategies.deepspeed.precision import DTYPES, Precision

# Where a module notes whose engine has its hooks in it: exports come after Lightning's `teardown`, so it stays there.
_TRAINED_BY = "_deepspeed_strategy"


def _trained_by(module: LightningModule) -> "DeepSpeedStrategy | None":
    """The strategy of an earlier run whose engine holds the same module still."""
    return vars(module).get(_TRAINED_BY)


class DeepSpeedStrategy(lightning_strategies.DeepSpeedStrategy):
    """Spreads the optimizer's state (1), gradients too (2), weights too (3) over all processes, on GPUs or CPUs.

    All nets of a module are in one engine; under ZeRO 3 frozen ones are spread like the others. Of a net that is loaded
    only the first process then reads the weights; one with random weights is built whole by each, on the CPU.
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
        zero: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Takes what to spread, and where it rests.

        Args:
            stage: Of ZeRO.
            offload_optimizer: The optimizer's state rests on `offload_device`, and the CPU computes its step.
            offload_parameters: So do weights; ZeRO 3 only.
            offload_device: The CPU's memory, or an NVMe disk.
            nvme_path: A folder on that disk.
            gather_for_generation: Gather a net that samples once for a rollout; otherwise layer by layer for each
                token, which takes less memory and much more time. Only ZeRO 3 has anything to gather.
            zero: Further settings of DeepSpeed's `zero_optimization`.
            **settings: Of Lightning's `DeepSpeedStrategy`, such as `config` for a whole configuration of DeepSpeed.

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
                # Lightning would ask the loader, which for PPO means a rollout (`_auto_select_batch_size`).
                "logging_batch_size_per_gpu": 1,
                **({"nvme_path": nvme_path} if nvme_path else {}),
                **settings,
            },
        )
        self._zero = self._config().setdefault("zero_optimization", {})
        self._zero.update(zero or {})
        if self._zero.get("stage") not in (1, 2, 3):
            raise UserError("DeepSpeedStrategy: config has no zero_optimization.stage of 1, 2 or 3")
        if self._config().get("gradient_clipping"):
            raise UserError("DeepSpeedStrategy: config.gradient_clipping: set trainer.gradient_clip_val instead")
        self.gather_for_generation = gather_for_generation
        self.engine: Any = None
        self.gathered: set[Tensor] = set()
        self.clipping: Clipping | None = None

    @property
    def shards_parameters(self) -> bool:
        """See `Sharding`."""
        return self.zero_stage_3

    def setup_environment(self) -> None:
        """Connects the processes, and checks what can be checked before nets are built.

        Raises:
            UserError: If DeepSpeed cannot do on the CPU what the trainer wants.
        """
        silence_libraries()
        prepare_disk(self._zero)
        previous = _trained_by(self._module())
        if previous is not None:
            previous._release(keep_weights=True)
        self.precision_plugin = Precision(self.precision_plugin.precision)  # type: ignore[arg-type]
        if not isinstance(self.accelerator, CPUAccelerator):
            super().setup_environment()
        else:
            check_cpu(self.precision_plugin.precision)
            # Lightning's own lets nothing but GPUs through (strategies/deepspeed/strategy.py, `setup_environment`).
            DDPStrategy.setup_environment(self)
        trainer = self._module().trainer
        for loop in (trainer.fit_loop.epoch_loop.val_loop, trainer.validate_loop, trainer.test_loop):
            # What is gathered in inference mode may stay, and training could not use it.
            loop.inference_mode = False

    def setup_distributed(self) -> None:
        """Connects the processes."""
        if self.root_device.type == "cpu":
            # Without the check of GPU indices.
            reset_seed()
            self.set_world_ranks()
            load_op(COMMUNICATION)
            # It prints that the operator is there.
            with redirect_stdout(StringIO()):
                self._init_deepspeed_distributed()
        else:
            super().setup_distributed()

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Returns the context in which the module builds its models.

        Lightning's `zero.Init` breaks Hugging Face nets: they draw random weights when these are spread already.
        """
        self._init_config_if_needed()
        # While it reads onto a disk, DeepSpeed ends the process without a word when a third net comes.
        on_disk = self._zero.get("offload_param", {}).get("device") == "nvme"
        spread = self.zero_stage_3 and not on_disk
        reading = partial(zero3.sharded_loading, self._config())
        with loading_by(reading, zero3.writable, zero3.is_spread) if spread else nullcontext():
            yield

    def validation_step(self, *arguments: object, **settings: object) -> Any:
        """Calls the module's own, which may sample, and not through the engine as training does."""
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
        """See `Sharding`; on a disk they are out of reach."""
        on_disk = self._zero.get("offload_optimizer", {}).get("device") == "nvme"
        return [] if on_disk else state.fp32_parts(self._module())

    def grad_norms(self) -> dict[str, Tensor] | None:
        """See `Sharding`: they are not known before the step."""
        return None

    def last_grad_norms(self) -> dict[str, Tensor] | None:
        """See `Sharding`; None if no step has been taken, or it was left out since fp16 gradients overflowed."""
        if self.clipping is None or getattr(self.engine.optimizer, "overflow", False):
            return None
        return {role: norm.to(self.root_device) for role, norm in self.clipping.norms().items()} or None

    def clip_by_role(self, max_norm: float) -> None:
        """See `Sharding`: the engine's step clips, and knows the bound."""
        assert self.clipping is not None
        self.clipping.by_role = True

    def save_checkpoint(self, checkpoint: dict[str, object], filepath: Any, storage_options: object = None) -> None:
        """Writes a folder; see `deepspeed.checkpoint`."""
        rest = {name: value for name, value in checkpoint.items() if name not in ("state_dict", "optimizer_states")}
        with replacing(Path(self.broadcast(filepath)), self) as partial_folder, folder.left_out(self._module()):
            self.engine.save_checkpoint(
                str(partial_folder),
                folder.TAG,
                client_state=rest,
                exclude_frozen_parameters=folder.leaves_out_frozen(self._module()),
            )

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a folder.

        Raises:
            UserError: If another strategy, or another number of processes, has written it; or it holds other nets.
        """
        module, path = self._module(), Path(checkpoint_path)
        folder.check(path, processes=self.world_size, zero3=self.zero_stage_3)
        load = partial(folder.load_weights, unchanged=folder.unchanged(module), strict=module.strict_loading)
        fitting = module.trainer.state.fn == TrainerFn.FITTING
        _, rest = self.engine.load_checkpoint(
            str(path), folder.TAG, load_optimizer_states=fitting, load_lr_scheduler_states=False, custom_load_fn=load
        )
        return rest

    def release(self) -> None:
        """See `Sharding`. DeepSpeed refers to an engine from too many places for it to go with the trainer."""
        if self.engine is not None:
            self._release(keep_weights=False)

    def _release(self, *, keep_weights: bool) -> None:
        vars(self.engine.module).pop(_TRAINED_BY)
        state.release(self.engine, keep_weights=keep_weights)
        if self.model is self.engine:
            self.model = None
        self.engine, self.clipping, self.optimizers, self.lr_scheduler_configs = None, None, [], []

    def _setup_model(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        # The engine sends weights as bytes, which one without a dimension cannot be seen as.
        lift_scalars(model)
        zero3.note_shapes_of_spread(model)
        return model

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: object = None
    ) -> tuple[Any, Any]:
        if self.zero_stage_3:
            zero3.shard(model, self._config(), DTYPES[self.precision_plugin.precision], self.root_device)
        # Lightning gives the index of the device, and a CPU has none.
        index = self.local_rank if self.root_device.index is None else self.root_device.index
        engine, ds_optimizer = state.initialize(model, optimizer, lr_scheduler, self._config(), index)
        self.engine = engine
        vars(model)[_TRAINED_BY] = self
        self.clipping = Clipping(ds_optimizer) if optimizer is not None else None
        return engine, ds_optimizer

    def _init_optimizers(self) -> tuple[Optimizer, Any]:
        optimizer, scheduler = super()._init_optimizers()
        check_offloaded(optimizer, self._config())
        return optimizer, scheduler

    def _config(self) -> dict[str, Any]:
        assert isinstance(self.config, dict)
        return self.config

    def _module(self) -> LightningModule:
        assert self.lightning_module is not None
        return self.lightning_module
