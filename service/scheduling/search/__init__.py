"""Searches as the API shows them: their trials, the pairs to compare, and the searches that they may start from."""
