"""What the cluster consists of."""
