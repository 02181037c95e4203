"""The demonstration models, and the drawn patients that they were trained on."""
