"""The control plane: the HTTP API, the job table, the reconciler and the command line."""
