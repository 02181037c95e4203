"""The roles of a node that work on studies, each a process: worker, courier, ticker."""
