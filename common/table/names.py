"""Where the files that follow from a score table go, next to it, and what its record says of the flags."""

from pathlib import Path

SCORES, STEPS = "ai_scores", ".steps"
RECORDED = {  # flags of step 5 in the record of its table, and their types
    **dict.fromkeys(("base_model", "reference_model", "tokenizer"), str),
    **dict.fromkeys(("seq_len", "score_tokens"), int),
    "score_separator": bool,
    "reference_of": dict,
}


def beside(scores: Path, name: str) -> Path:
    """The path of a file that follows from a score table: in its folder, and with its name unless that is usual.

    >>> str(beside(Path("data/mine/ai_scores.tsv"), "top20.tsv"))
    'data/mine/top20.tsv'
    >>> str(beside(Path("data/ai_scores.steps.parquet"), "top20.tsv"))
    'data/ai_scores.steps.top20.tsv'
    """
    return scores.with_name(name if scores.stem == SCORES else f"{scores.stem}.{name}")


def record_of(scores: Path) -> Path:
    """The record of how a score table was made, which is also that of its table of steps.

    >>> str(record_of(Path("data/ai_scores.parquet"))), str(record_of(Path("data/ai_scores.steps.tsv")))
    ('data/ai_scores.json', 'data/ai_scores.json')
    """
    return scores.parent / f"{scores.stem.removesuffix(STEPS)}.json"
