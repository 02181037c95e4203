"""The processes of a node: the supervisor, its children, and what they have in common."""
