"""Data: import, row reports, PII, de-duplication, split, rendering, tokens and packing. Plain functions, no Dagster,
no torch."""
