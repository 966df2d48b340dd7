"""The shipped evaluation suites: a folder each, with an lm-eval task and the items that `generate` writes."""
