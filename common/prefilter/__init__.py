"""A cheap choice of what is worth scoring.

May import: export, table, shards, text, workers, and the base.
"""
