"""Checkpoint folders, and the manifests that verify them."""
