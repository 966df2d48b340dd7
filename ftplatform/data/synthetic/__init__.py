"""Rows that a teacher model writes from a dataset's own."""
