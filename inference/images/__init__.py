"""Single images: stored values to grey values, network input, and pictures for people."""
