"""The Hydra configuration, as the package `lightning_rlhf.conf`; Hydra finds it only with this file."""
