"""Evaluates models: lm-evaluation-harness, and the tasks that it reads from files.

May import: pages, and every folder that pages may import; not training.
"""
