"""The spool: received instances, durable on disk and in the index before they are acknowledged."""
