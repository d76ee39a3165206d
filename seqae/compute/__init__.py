"""How a model is computed on the hardware that there is: threads, precision, compilation."""
