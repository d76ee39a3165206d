"""The verbs of `seqae`, a module for each group. What a verb needs is imported when it runs: help answers at once."""
