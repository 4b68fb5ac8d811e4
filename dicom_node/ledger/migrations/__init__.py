"""Alembic migrations of the ledger, packaged with it and run whenever a ledger is opened."""
