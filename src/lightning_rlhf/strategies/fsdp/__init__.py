"""FSDP: `FullyShardedDataParallel` and `fully_shard` of PyTorch as Lightning strategies."""
