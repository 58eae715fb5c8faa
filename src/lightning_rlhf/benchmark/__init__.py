"""What `lightning-rlhf benchmark` gives to a run and measures in it: random prompts, phases, FLOPs and memory."""
