"""Converts the layouts of public data sets to those that the stages read."""
