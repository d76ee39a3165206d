"""Reconstruction errors and segmentation scores on held-out images."""
