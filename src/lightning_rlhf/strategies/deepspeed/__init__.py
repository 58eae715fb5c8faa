"""DeepSpeed's ZeRO 1, 2 and 3 as a Lightning strategy."""
