"""A selection in the formats of trainers.

May import: table, shards, text, and the base.
"""
