"""Suites, the scoring payload, paired statistics and the gate. Only ``runner*`` imports torch, in its own process."""
