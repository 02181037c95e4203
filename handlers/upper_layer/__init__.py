"""The upper layer (PS3.8): protocol data units, associations, TLS."""
