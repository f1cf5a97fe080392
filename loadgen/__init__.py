"""Makes the load and keeps the record."""
