"""Texts that a page must show as they are."""

from tests.conftest import SENTENCES

INJECTION = "</script><script>document.title='owned'</script> <img src=x onerror=\"document.title='owned'\"> &amp; <b>"
TEXTS = [
    INJECTION,
    "red \x1b[31m and a bell \x07, a tab\tand\r\n  two  spaces\n\n\nthree lines",
    "naïve 🙂👩‍🚀 你好, 世界 — half of it",
    "a",
    f"{SENTENCES[0]} {SENTENCES[1]} {SENTENCES[0]} {SENTENCES[2]} {SENTENCES[0]}",
    *(" ".join(SENTENCES[i % 16 : i % 16 + 3]) + f" number {i}" for i in range(40)),
]
