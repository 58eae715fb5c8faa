"""Measures reward models on preferences, and trained models against each other."""
