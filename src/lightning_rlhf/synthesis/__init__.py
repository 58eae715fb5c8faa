"""Data made by models: conversations of two roles, scores of answers, and comparisons of them."""
