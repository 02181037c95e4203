"""Running networks: devices, batches, ensembles, explanations, and the way from logits to probabilities."""
