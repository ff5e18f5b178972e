"""Workers in this process or on a Ray cluster, and a thread that reads ahead.

May import: the base (errors, files, cli).
"""
