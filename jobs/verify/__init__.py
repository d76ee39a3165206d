"""Verification of a training run: a part of it is trained again and compared with what was logged."""
