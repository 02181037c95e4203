"""The demonstration models, and the drawn phantoms on which they were trained."""
