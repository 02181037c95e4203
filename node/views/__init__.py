"""What commands and web show of the database."""
