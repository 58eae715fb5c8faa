"""From prompts to experience: sampling, scoring, and the data set that the update reads."""
