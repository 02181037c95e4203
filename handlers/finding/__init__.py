"""Finding the node's results: information model, matching, entities. Works on values, without a connection."""
