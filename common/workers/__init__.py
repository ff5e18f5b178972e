"""Who does the work: this process or a Ray cluster, and a thread that reads ahead.

May import: the base (errors, files, cli, flags).
"""
