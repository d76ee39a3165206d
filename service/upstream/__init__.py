"""The Ray cluster and the MLflow server as the control plane sees them, behind circuit breakers."""
