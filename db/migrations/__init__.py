"""Alembic migrations, which the application runs itself."""
