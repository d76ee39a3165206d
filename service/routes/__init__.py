"""The HTTP addresses, one module for each thing they are about. Routes hold no rules: use cases do."""
