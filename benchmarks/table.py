"""Write the table of measurements into README.md, between its two `benchmarks` marks, from results/*.json.

bash benchmarks/run.sh table
"""

import json
import re
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
MARKS = re.compile(r"(<!-- benchmarks -->\n).*(<!-- /benchmarks -->)", re.DOTALL)


def load(name: str) -> dict | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def times(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f}× ({ratio['min']:.2f} to {ratio['max']:.2f})"


def rows() -> list[tuple[str, str, str]]:
    """(what, against, measured) of every row; `not measured` where there is no result."""
    found, missing = [], "not measured"
    scoring = load("scoring_cpu")
    for peer in ("plain loop", "padded batches", "lm-evaluation-harness"):
        found.append(("scoring, CPU", peer, times(scoring["times_as_fast_as"][peer]) if scoring else missing))
    measured = times(scoring["compile_brings"]) if scoring else missing
    found.append(("scoring, CPU, `--compile`", "without it", measured))
    precision = load("precision")
    for key, what, peer in (
        ("bfloat16_as_fast_as", "bfloat16", "float32"),
        ("compile_brings", "bfloat16, `--compile`", "without it"),
    ):
        found.append((f"scoring, CPU with AMX, {what}", peer, times(precision[key]) if precision else missing))
    guards = load("guards")
    measured = f"{guards['share_of_scoring']['median']:.2%} of its time" if guards else missing
    found.append(("measures of repetition and copies, CPU", "scoring", measured))
    heads = load("heads_cpu")
    found.append(
        ("finding heads, CPU", "plain forward pass", times(heads["times_as_fast_as"]["plain forward"]))
        if heads
        else ("finding heads, CPU", "plain forward pass", missing)
    )
    tokenizing = load("tokenizing")
    for peer in ("datasets.map", "datatrove"):
        found.append(("tokenizing 50 MB", peer, times(tokenizing["times_as_fast_as"][peer]) if tokenizing else missing))
    mixture = load("mixture")
    measured = missing
    if mixture:
        rates = mixture["tokens_per_second"]
        measured = f"{rates['mixture'] / 1e6:.0f} million tokens/s; {times(mixture['times_as_fast_as']['crops'])}"
    found.append(("training sequences, 1 core", "random crops of one file", measured))
    ranking = load("ranking")
    for size in ranking["sizes"] if ranking else []:
        measured = f"{size['seconds']:.0f} s, {size['peak_memory_gb']:.2f} GB"
        found.append((f"ranking {size['rows'] / 1e6:.0f} million rows", "", measured))
    gpu, name = load("scoring_gpu"), "scoring, GPU, 1.3B"
    for peer in ("plain loop", "padded batches"):
        found.append((name, peer, times(gpu["times_as_fast_as"][peer]) if gpu else missing))
    for key, peer in (
        ("share_of_matmul_rate", "the GPU's matmul rate"),
        ("share_of_two_passes_at_matmul_rate", "two passes at that rate"),
    ):
        found.append((name, peer, f"{gpu[key]:.2f}" if gpu else missing))
    for key, what in (("compile_brings", "`--compile`"), ("varlen_brings", "`varlen_attn`")):
        found.append((f"{name}, {what}", "without it", times(gpu[key]) if gpu and gpu[key] else missing))
    heads = load("heads_gpu")
    measured = (
        f"{median(heads['seconds']['finding heads']):.0f} s, {heads['peak_gpu_memory_gb']:.1f} GB" if heads else ""
    )
    found.append(("finding heads, GPU, 1.3B", "800 probes of 4,096 tokens", measured or missing))
    return found


def main() -> None:
    lines = ["| what | against | times as fast (least to most of the rounds) |", "| --- | --- | --- |"]
    lines += [f"| {' | '.join(row)} |" for row in rows()]
    text = README.read_text(encoding="utf-8")
    if not MARKS.search(text):
        raise SystemExit(f"{README}: no <!-- benchmarks --> marks")
    README.write_text(MARKS.sub(lambda m: m[1] + "\n".join(lines) + "\n" + m[2], text), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
