"""The command line, `seqae`."""
