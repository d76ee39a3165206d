"""The embedded stack: MLflow, Ray and the control plane as daemons of one machine."""
