"""Logs and traces of all processes: how they are written, and how the control plane reads them again."""
