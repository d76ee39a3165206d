"""Hyperparameter search: trials as data, their processes on Ray Tune, and the table of their states."""
