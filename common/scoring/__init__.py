"""Turns documents into losses: the pair of models, losses, batches, windows, units of work, the plan of a run.

May import: table, model, shards, text, workers, and the base.
"""
