"""Meta's original LLaMA folders: how they are read, checked and converted."""
