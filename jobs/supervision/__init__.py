"""Supervision of a training run: notices that a worker must go, divergence, slow workers, GPUs."""
