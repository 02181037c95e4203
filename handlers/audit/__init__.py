"""The audit trail (PS3.15 section A.5)."""
