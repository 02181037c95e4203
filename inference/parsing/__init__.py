"""The reader process: parses and decodes untrusted files, within limits and outside of the worker."""
