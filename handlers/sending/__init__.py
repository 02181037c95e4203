"""Sending: associations that we open."""
