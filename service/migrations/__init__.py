"""Alembic's scripts; `service.database.Database.migrate` runs them."""
