"""Scenes that are painted from a seed alone: sprites, tetrominoes, and backgrounds."""
