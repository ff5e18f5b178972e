"""Turns losses into a selection: the columns of a score table, its parts, reading, guards, ranking.

May import: shards, text, workers, and the base.
"""
