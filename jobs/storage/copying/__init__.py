"""Copies of job folders on the machines of a cluster: from the storage, into it, and their removal."""
