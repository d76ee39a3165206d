"""The command line, `seqae`: a thin layer over the client and the embedded stack."""
