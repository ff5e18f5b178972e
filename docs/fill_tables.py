"""Fill the tables in README.md and docs/ from the results of benchmarks and experiments and the list of model classes.

    python docs/fill_tables.py             write each table between its marks, <!-- name --> and <!-- /name -->
    python docs/fill_tables.py --check     change nothing; exit with status 1 if a table differs from the results

Reads   benchmarks/results/*.json, experiments/results/*.json, FAMILIES in tests/model/families.py
Writes  README.md, docs/results.md, docs/models.md, docs/gpu.md, docs/paper.md
"""

import argparse
import re
import runpy
from collections.abc import Callable
from pathlib import Path

from tables import of_benchmarks, of_heads, of_selections
from tables.cells import AGAINST, NOT_MEASURED, ROOT, benchmark, experiment, markdown, speed, spread

FAMILIES = ROOT / "tests/model/families.py"


def families() -> str:
    rows = [(family.known_as, family.name, family.trait) for family in runpy.run_path(str(FAMILIES))["FAMILIES"]]
    return markdown(("models", "class", "particular about its attention"), "lll", rows)


def headline_rows() -> list[tuple[str, str, str]]:
    """(what was measured, result, compared with) for the results in README.md."""
    scoring, gpu = map(benchmark, ("scoring_cpu", "scoring_gpu"))
    heads = {row["task"]: row for row in experiment("heads_matter") or []}
    models, helps = experiment("two_models"), experiment("does_it_help")
    rows = []
    for task, what in (("lambada", "needs the context"), ("arc_easy", "needs knowledge")):
        row = heads.get(task)
        masked = spread(*row["masked"]) if row else NOT_MEASURED
        others = ", ".join(f"{value:.3f}" for value, _ in row["random"]) if row else ""
        against = f"whole model {spread(*row['base'])}; random heads masked {others}" if row else ""
        rows.append((f"accuracy without the retrieval heads, {task}, which {what}", masked, against))
    agreement = {domain: both["spearman"] for domain, both in models["agreement"].items()} if models else {}
    lowest, highest = (pick(agreement, key=agreement.get, default="") for pick in (min, max))
    found = f"{agreement[lowest]:.2f} ({lowest}) to {agreement[highest]:.2f} ({highest})" if models else NOT_MEASURED
    rows.append(("rank correlation with the scores of a second model, by domain", found, "1 is the same order"))
    first = helps and helps["hypotheses"]["H1"]
    rows.append(
        (
            "**held-out loss with the selection, less that with random documents as long** (below 0 is better)",
            f"{of_selections.difference(first)}, {first['verdict']}" if first else NOT_MEASURED,
            f"smallest difference that could have been seen {first['smallest']:.4f}" if first else "",
        )
    )
    rows.append(("speed of scoring, 2 CPU cores", speed(scoring, AGAINST, "plain loop"), "plain loop"))
    rows.append(("speed of scoring, a GPU", speed(gpu, AGAINST, "plain loop"), "plain loop"))
    return rows


def headline() -> str:
    return markdown(("what", "result", "compared with"), "lll", headline_rows())


# By the name in a table's marks: the page with the table, and the function that makes it.
TABLES: dict[str, tuple[Path, Callable[[], str]]] = {
    "headline": (ROOT / "README.md", headline),
    "families": (ROOT / "docs/models.md", families),
    "two models": (ROOT / "docs/results.md", of_heads.two_models),
    "heads matter": (ROOT / "docs/results.md", of_heads.heads_matter),
    "templates": (ROOT / "docs/results.md", of_heads.templates),
    "heads by domain": (ROOT / "docs/results.md", of_heads.heads_by_domain),
    "scores go with": (ROOT / "docs/results.md", of_selections.scores_go_with),
    "selections go with": (ROOT / "docs/results.md", of_selections.selections_go_with),
    "scored in part": (ROOT / "docs/results.md", of_selections.scored_in_part),
    "prefilter": (ROOT / "docs/results.md", of_selections.prefilter),
    "prefilter features": (ROOT / "docs/results.md", of_selections.prefilter_features),
    "table 6": (ROOT / "docs/paper.md", of_heads.table_6),
    "does it help": (ROOT / "docs/results.md", of_selections.does_it_help),
    "weak to strong": (ROOT / "docs/results.md", of_selections.weak_to_strong),
    "benchmarks": (ROOT / "docs/results.md", of_benchmarks.benchmarks),
    "precisions": (ROOT / "docs/results.md", of_benchmarks.precisions),
    "roofline": (ROOT / "docs/gpu.md", of_benchmarks.roofline),
}


def filled(text: str, mark: str, table: str) -> str | None:
    """The text with this table between its marks; None if the marks do not occur exactly once."""
    between = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    text, count = between.subn(lambda marks: marks[1] + table + marks[2], text)
    return text if count == 1 else None


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, and fail if a table is out of date")
    check = parser.parse_args(argv).check
    stale = []
    for mark, (page, make) in TABLES.items():
        before = page.read_text(encoding="utf-8")
        after = filled(before, mark, make())
        if after is None:
            raise SystemExit(f"{page}: the marks <!-- {mark} --> and <!-- /{mark} --> are not in it exactly once")
        if after == before:
            continue
        stale.append(f"{page.relative_to(ROOT)}: the table `{mark}`")
        if not check:
            page.write_text(after, encoding="utf-8")
    if check and stale:
        raise SystemExit(f"{'; '.join(stale)} is not what the results say; run python docs/fill_tables.py")
    print(f"filled {'; '.join(stale)}" if stale else "every table is what the results say")


if __name__ == "__main__":
    main()
