"""One optimizer step: its batch, its random numbers, its loss, and its gradients over pieces and workers."""
