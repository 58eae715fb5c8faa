"""Keeps what libraries say about themselves out of what a run prints."""

import logging
import os
import warnings


def silence_loggers() -> None:
    """Silences loggers of libraries; needs to be called before the libraries are imported, and imports none."""
    # Says on each start how many GPUs and TPUs there are, and advertises a service.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.callbacks.model_checkpoint").setLevel(logging.ERROR)
    for name in ("httpx", "hydra", "matplotlib", "fsspec", "urllib3", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # transformers imports DeepSpeed where it is installed, and DeepSpeed says which device it found.
    logging.getLogger("DeepSpeed").addFilter(lambda record: "Setting accelerator to CPU" not in record.getMessage())
    # bitsandbytes offers kernels that a CPU could load from the hub, and says for each layer that it computes.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def silence_libraries() -> None:
    """Silences notices that a user can do nothing about; errors and our own lines stay."""
    silence_loggers()
    # Lightning calls a torch function that torch has renamed.
    warnings.filterwarnings("ignore", message=r".*LeafSpec.*")
    # Our loaders batch in this process: padding a few rows takes less time than sending them.
    warnings.filterwarnings("ignore", message=r".*does not have many workers.*")
    # Losses are logged in each step, whatever the number of steps.
    warnings.filterwarnings("ignore", message=r".*smaller than the logging interval.*")
    # The run's folder is made before the run begins, by Hydra.
    warnings.filterwarnings("ignore", message=r".*logs directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=r".*Checkpoint directory .* exists and is not empty.*")
    # A run that goes on in another folder keeps its checkpoints there.
    warnings.filterwarnings("ignore", message=r".*The dirpath has changed from.*")
    warnings.filterwarnings("ignore", message=r".*You have overridden .*train_dataloader.*")
    # Reference and reward model are, on purpose.
    warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode at the start of training.*")
    # The data modules keep the place of their loaders themselves.
    warnings.filterwarnings("ignore", message=r".*your dataloader is not resumable.*")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    # A head that a stage adds on purpose is "newly initialized"; where that would be wrong, we raise.
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
