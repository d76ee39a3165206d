"""Parts of a search's spec: its space, its objectives and constraints, and the names of samplers and schedulers."""
