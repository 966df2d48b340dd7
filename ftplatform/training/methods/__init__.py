"""Training methods: one class each, behind ``base.TrainingMethod``; ``core/methods.py`` says which there are."""
