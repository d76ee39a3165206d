"""Alembic's scripts; `service.db.engine.Database.migrate` runs them."""
