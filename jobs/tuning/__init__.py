"""Hyperparameter search: trials proposed by Optuna, their processes on Ray Tune, their table, and what was found."""
