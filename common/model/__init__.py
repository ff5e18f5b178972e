"""Models and their heads: checkpoints, the attention function, masking, probes, retrieval scores.

May import: text, workers, and the base.
"""
