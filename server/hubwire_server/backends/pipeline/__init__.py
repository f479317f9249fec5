"""Runs pipelines of transformers, and the three that it has no more: any model, one input at a time."""
