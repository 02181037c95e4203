"""The reader process: what comes from the network is parsed and decoded there, within limits, never in the worker."""
