"""A selection to a trained model: the mixture of sources and the trainer.

May import: pages, and every room that pages may import; not evaluation.
"""
