"""The random walks of trlx: a published task that is computed, from its data to its metric."""
