"""Trainings over several processes: what is checked before, how a model is divided, and how it becomes whole again."""
