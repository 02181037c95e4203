"""Single images: their grey values, the network input made from them, and pictures for people."""
