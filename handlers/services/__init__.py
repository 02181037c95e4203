"""The services (PS3.4) that a receiver offers, one module each."""
