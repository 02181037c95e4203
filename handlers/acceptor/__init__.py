"""The acceptor: a receiver process, which peers it admits, and how many at a time."""
