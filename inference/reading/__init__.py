"""Reading: files that came from anywhere to images, slices and headers, by way of the reader process."""
