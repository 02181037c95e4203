"""Reading: turns untrusted files into images, slices and headers, through the reader process."""
