"""Chats, and shards of them."""

import fineweb
from tests.conftest import SENTENCES, write_jsonl


def tokenize(rows, flags="") -> None:
    write_jsonl("text.jsonl", rows)
    fineweb.main(f"--tokenizer model --input text.jsonl --out_dir shards {flags}".split())


def chat(*contents: str, system: str | None = None) -> dict:
    """User and assistant in turn."""
    messages = [{"role": ["user", "assistant"][n % 2], "content": text} for n, text in enumerate(contents)]
    return {"messages": ([{"role": "system", "content": system}] if system else []) + messages}


CHATS = [
    chat("What?", SENTENCES[0], "And?", SENTENCES[1] + "\n\n" + SENTENCES[2]),
    chat("Hm", "\nWell", system=SENTENCES[3]),
    chat(SENTENCES[4], "é"),
]
