"""Attempts as RayJobs on Kubernetes: the launcher, the template of their clusters, and the API server's objects."""
