"""What people look at: pictures, HTML pages, documents token by token, the overview of a run.

May import: scoring, table, model, shards, text, workers, and the base.
"""
