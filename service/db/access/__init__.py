"""Access tokens in the job database, and the program that makes the first of them."""
