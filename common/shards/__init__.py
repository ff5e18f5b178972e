"""Writes token ids to disk and reads them: the `.bin` format, documents and their index, doc_ids, the writer.

May import: text, workers, and the base.
"""
