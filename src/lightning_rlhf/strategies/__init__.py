"""Lightning strategies that divide models over processes: FSDP, DeepSpeed and ColossalAI."""
