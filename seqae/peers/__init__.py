"""Comparison of this model with other methods: each on the same scenes, by the same scores, for the same time."""
