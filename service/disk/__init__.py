"""What the stack keeps on its disk: who uses how much, what is removed when, and the removal of a job."""
