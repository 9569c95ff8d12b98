"""Stages: what one command does. Each is a config and what it carries out."""
