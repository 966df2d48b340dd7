"""How fast, how small and how steadily the training service trains: ``python -m bench.training PART``."""
