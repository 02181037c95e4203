"""The roles of a node, a process each: worker, courier, ticker."""
