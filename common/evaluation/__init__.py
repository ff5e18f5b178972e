"""Trained models to figures: lm-evaluation-harness and the tasks that it reads from files.

May import: pages, and every room that pages may import; not training.
"""
