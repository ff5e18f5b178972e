"""Turns text into token ids: corpora, chats, tokenizers, the sample text.

May import: workers, and the base (errors, files, cli).
"""
