"""Finding what the node has: information model, matching, entities. Values in, values out; no connection in sight."""
