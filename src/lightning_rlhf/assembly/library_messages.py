"""Keeps notices of libraries out of the output of a run."""

import logging
import os
import warnings


def silence_loggers() -> None:
    """Silences loggers of libraries. Call it before the libraries are imported; it imports none itself."""
    # Reports at each start how many GPUs and TPUs there are, and advertises a service.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.callbacks.model_checkpoint").setLevel(logging.ERROR)
    for name in ("httpx", "hydra", "matplotlib", "fsspec", "urllib3", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # transformers imports DeepSpeed where it is installed, and DeepSpeed reports the accelerator that it found.
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    # bitsandbytes suggests kernels that a CPU could load from the hub, and logs a line for each layer that it computes.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def silence_libraries() -> None:
    """Silences notices that the user cannot act on. Errors and our own messages stay."""
    silence_loggers()
    # Lightning calls a torch function that torch has renamed.
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*")
    # Our loaders collate in this process, because padding a few rows takes less time than sending them.
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    # Losses are logged in each step, even if there are few steps.
    warnings.filterwarnings("ignore", message=r".*smaller than the logging interval.*")
    # Hydra makes the folder of the run before the run begins.
    warnings.filterwarnings("ignore", message=r".*logs directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=r".*Checkpoint directory .* exists and is not empty.*")
    # A run that is resumed into another folder keeps its checkpoints there.
    warnings.filterwarnings("ignore", message=r".*The dirpath has changed from.*")
    warnings.filterwarnings("ignore", message=r".*You have overridden .*train_dataloader.*")
    # Reference and reward model are in evaluation mode on purpose.
    warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode at the start of training.*")
    # The data modules save the positions of their loaders themselves.
    warnings.filterwarnings("ignore", message=r".*your dataloader is not resumable.*")
    # The learning rates are the same on all processes, so that their mean need not be computed.
    warnings.filterwarnings("ignore", message=r".*use `self.log\('train/lr.*sync_dist=True.*")
    # Our modules do not use the default implementation that this warns of.
    warnings.filterwarnings("ignore", message=r".*DeepSpeed handles gradient clipping internally.*")
    # Lightning advises to use SLURM wherever SLURM is installed, also in a run of torchrun and in a short trial.
    warnings.filterwarnings("ignore", message=r".*`srun` command is available.*")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # W&B would print a summary of several screens. The run says where W&B shows it.
    os.environ.setdefault("WANDB_SILENT", "true")
    from transformers.utils import logging as transformers_logging

    # Transformers warns that a head is "newly initialized". Here a new head is on purpose, or we raise an error.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
