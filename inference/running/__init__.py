"""Running networks: devices, batches, ensembles, explanations, and probabilities from logits."""
