"""DIMSE (PS3.7): commands, statuses, identifiers, and the UIDs that we support."""
