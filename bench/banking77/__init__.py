"""BANKING77 through the platform: real customer questions, 77 intents, greedy generation, exact match on the test file.

``python -m bench.banking77`` from the project's folder; it writes ``bench/results/banking77.md`` and ``.json``.
"""
