"""What clients can do with jobs, and which job may run next."""
