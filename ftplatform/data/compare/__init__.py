"""Rows compared with each other: keys, duplicates, near duplicates, contamination, the split."""
