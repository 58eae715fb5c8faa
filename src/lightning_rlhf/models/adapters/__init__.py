"""LoRA adapters: how they are added, activated, saved, loaded and merged."""
