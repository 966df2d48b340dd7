"""Search for better values of a recipe's fields: what to try next, when to stop a trial, what decided. No Dagster, no payloads.

Nothing is kept in memory between two questions: every answer is computed anew from the trials so far, so that a search that was killed
goes on as if it had not been.
"""
