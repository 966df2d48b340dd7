"""The vocabulary as types: keys, rows, recipes, manifests, plans, payload specs, errors. No I/O, no Dagster, no torch."""
