"""Language models: where they come from, the heads on them, the four roles that they play, and their export."""
