"""Alembic migrations, run by the application itself."""
