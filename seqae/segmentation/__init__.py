"""Segmentation of an image by the writes of its reconstruction: a pixel belongs to one write, or to the background."""
