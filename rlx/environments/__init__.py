"""Environments: what a model is told between its turns, and what the turns are worth. No torch."""
