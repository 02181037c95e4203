"""What the commands and the web process show of the database."""
