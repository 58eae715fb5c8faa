"""Reads, checks and converts folders in Meta's original LLaMA format."""
