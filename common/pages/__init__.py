"""Pictures and pages for people: the report of a run, documents token by token.

May import: scoring, table, model, shards, text, workers, and the base.
"""
