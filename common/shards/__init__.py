"""Token ids to disk and back: the `.bin` format, documents and their index, doc_ids, the writer.

May import: text, workers, and the base.
"""
