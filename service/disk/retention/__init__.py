"""Retention of ended jobs: which are removed when they are too old, too many, or take too much room."""
