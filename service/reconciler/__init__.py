"""The reconciliation loop: one module for each phase of a job's life, and what they share."""
