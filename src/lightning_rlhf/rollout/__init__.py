"""Turns prompts into experience: sampling, scoring, and the data set that the update reads."""
