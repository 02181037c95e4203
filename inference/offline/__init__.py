"""What only the commands for files write: JSON documents, files about nodules, calibration diagrams."""
