"""The acceptor: a receiver process, and who may associate with it."""
