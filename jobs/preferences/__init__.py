"""Search by eye: pairs of trials that people compare, their answers, and the scores that follow from these."""
