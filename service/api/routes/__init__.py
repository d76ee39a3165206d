"""Routers of the API: one module for each group of addresses."""
