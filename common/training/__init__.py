"""Trains a model on a selection: the mixture of token streams, and the trainer.

May import: pages, and every folder that pages may import; not evaluation.
"""
