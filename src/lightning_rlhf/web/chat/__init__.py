"""The page on which people talk to trained models."""
