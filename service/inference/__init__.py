"""Model serving inside the API process: loaded models and micro-batching. The only part that loads torch."""
