"""The spool: received datasets on disk and in the index, durable before they are acknowledged."""
