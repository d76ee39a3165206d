"""Model serving inside the API process: loaded models and micro-batching. The only package that loads torch."""
