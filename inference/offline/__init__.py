"""Output of the command line: JSON documents, files about nodules, calibration diagrams."""
