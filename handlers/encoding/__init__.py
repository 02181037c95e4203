"""Data structures and encoding (PS3.5): UIDs, encoded elements, and attribute values."""
