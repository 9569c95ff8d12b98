"""Evaluation: a model and a task to one row per problem."""
