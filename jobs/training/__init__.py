"""Distributed training: the worker's loop, the worker group on Ray Train, checkpoints and metrics."""
