"""Where the files that follow from a score table go: next to it."""

from pathlib import Path

SCORES = "ai_scores"


def beside(scores: Path, name: str) -> Path:
    """The path of a file that follows from a score table: in its folder, and with its name unless that is usual.

    >>> str(beside(Path("data/mine/ai_scores.tsv"), "top20.tsv"))
    'data/mine/top20.tsv'
    >>> str(beside(Path("data/ai_scores.steps.parquet"), "top20.tsv"))
    'data/ai_scores.steps.top20.tsv'
    """
    return scores.with_name(name if scores.stem == SCORES else f"{scores.stem}.{name}")
