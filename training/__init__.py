"""Training of the bundled demonstration models on drawn phantoms."""
