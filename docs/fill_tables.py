"""Fill the tables in README.md and docs/ from the results of benchmarks and experiments and the list of model classes.

    python docs/fill_tables.py             write each table between its marks, <!-- name --> and <!-- /name -->
    python docs/fill_tables.py --check     change nothing; exit with status 1 if a table differs from the results

Reads   benchmarks/results/*.json, experiments/results/*.json, FAMILIES in tests/model/families.py
Writes  README.md, docs/results.md, docs/models.md, docs/gpu.md, docs/paper.md
"""

import argparse
import json
import re
import runpy
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCHMARKS, EXPERIMENTS = ROOT / "benchmarks/results", ROOT / "experiments/results"
FAMILIES = ROOT / "tests/model/families.py"
NOT_MEASURED = "not measured"
AGAINST = "times_as_fast_as"  # where a benchmark keeps its ratios


def read(path: Path) -> dict | list | None:
    """The JSON of a result; None if the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def benchmark(name: str) -> dict | None:
    """A result of benchmarks/."""
    return read(BENCHMARKS / f"{name}.json")


def markdown(head: tuple[str, ...], alignment: str, rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table; `alignment` has a letter for each column: l(eft) or r(ight)."""
    rules = tuple({"l": "---", "r": "---:"}[letter] for letter in alignment)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, rules, *rows))


def speed(result: dict | None, *keys: str) -> str:
    """The ratio of speeds at these keys of a result: its median, and its range over the rounds."""
    for key in keys:
        result = result and result[key]
    return f"{result['median']:.2f}× ({result['min']:.2f} to {result['max']:.2f})" if result else NOT_MEASURED


def spread(value: float, deviation: float) -> str:
    """A value with its standard error or deviation."""
    return f"{value:.3f} ± {deviation:.3f}"


def cpu_rows() -> list[tuple[str, str, str]]:
    """The benchmarks of scoring and of finding heads on a CPU."""
    scoring, precision, guards, heads = map(benchmark, ("scoring_cpu", "precision_time", "guards", "heads_cpu"))
    share = f"{guards['share_of_scoring']['median']:.2%} of its time" if guards else NOT_MEASURED
    amx = "scoring, CPU with AMX, bfloat16"
    return [
        *(
            ("scoring, CPU", peer, speed(scoring, AGAINST, peer))
            for peer in ("plain loop", "padded batches", "lm-evaluation-harness")
        ),
        ("scoring, CPU, `--compile`", "without it", speed(scoring, "compile_brings")),
        (amx, "float32", speed(precision, "bfloat16_as_fast_as")),
        (f"{amx}, `--compile`", "without it", speed(precision, "compile_brings")),
        ("measures of repetition and copies, CPU", "scoring", share),
        ("finding heads, CPU", "plain forward pass", speed(heads, AGAINST, "plain forward")),
    ]


def data_rows() -> list[tuple[str, str, str]]:
    """The benchmarks of tokenizing, drawing training sequences, ranking and exporting."""
    tokenizing, mixture, ranking, export = map(benchmark, ("tokenizing", "mixture", "ranking", "export"))
    rows = [("tokenizing 50 MB", peer, speed(tokenizing, AGAINST, peer)) for peer in ("datasets.map", "datatrove")]
    rows += prefilter_rows()
    drawing = speed(mixture, AGAINST, "crops")
    if mixture:
        drawing = f"{mixture['tokens_per_second']['mixture'] / 1e6:.0f} million tokens/s; {drawing}"
    rows.append(("training sequences, 1 core", "random crops of one file", drawing))
    for size in ranking["sizes"] if ranking else []:
        measured = f"{size['seconds']:.0f} s, {size['peak_memory_gb']:.2f} GB"
        rows.append((f"ranking {size['rows'] / 1e6:.0f} million rows", "", measured))
    memory = f"; {export['peak_memory_gb']:.2f} GB of memory" if export else ""
    what = ("exporting a fifth of the rows of parquet", "pyarrow's filter-and-write")
    rows.append((*what, speed(export, AGAINST, "pyarrow") + memory))
    return rows


def prefilter_rows() -> list[tuple[str, str, str]]:
    """The benchmark of choosing documents before they are scored."""
    result, what = benchmark("prefilter"), "choosing documents, 1 core"
    rates = result["megabytes_per_second"]["apply"] if result else []
    alone = f"{statistics.median(rates):.0f} MB/s ({min(rates):.0f} to {max(rates):.0f})" if rates else NOT_MEASURED
    peers = ("fastText", "C4QualityFilter", "GopherQualityFilter", "GopherRepetitionFilter")
    return [(what, "", alone), *((what, peer, speed(result, AGAINST, peer)) for peer in peers)]


def gpu_rows() -> list[tuple[str, str, str]]:
    """The benchmarks on a GPU."""
    scoring, heads = map(benchmark, ("scoring_gpu", "heads_gpu"))
    what = f"scoring, {scoring['machine']['gpu'] if scoring else 'GPU'}, 1.3B"
    finding = NOT_MEASURED
    if heads:
        seconds = statistics.median(heads["seconds_of_all_probes"])
        finding = f"{heads['what'].partition(',')[0]}: {seconds:.1f} s, {heads['peak_gpu_memory_gb']:.1f} GB"
    shares = (
        ("the GPU's matmul rate", "share_of_matmul_rate"),
        ("two passes at that rate", "share_of_two_passes_at_matmul_rate"),
    )
    return [
        *((what, peer, speed(scoring, AGAINST, peer)) for peer in ("plain loop", "padded batches")),
        *((what, peer, f"{scoring[share]:.2f}" if scoring else NOT_MEASURED) for peer, share in shares),
        (f"{what}, `--compile`", "without it", speed(scoring, AGAINST, "without --compile")),
        (f"{what}, `varlen_attn`, not compiled", "without it", speed(scoring, "varlen_brings")),
        ("finding heads, GPU, 1.3B", "", finding),
    ]


def benchmark_rows() -> list[tuple[str, str, str]]:
    """(what, against, measured) for every benchmark; `not measured` if there is no result."""
    return cpu_rows() + data_rows() + gpu_rows()


def benchmarks() -> str:
    return markdown(("what", "against", "times as fast (least to most of the rounds)"), "lll", benchmark_rows())


def roofline() -> str:
    """Two tables: the cost of a token on paper, by operation, and the time that it took, by kind."""
    result = benchmark("roofline")
    if not result:
        return NOT_MEASURED + "\n"
    on_paper = [
        (
            cost["operation"],
            f"{cost['flops'] / 1e9:.2f}" if cost["flops"] else "",
            *(f"{cost[how] / 1e6:.2f}" for how in ("eager", "compiled")),
            *(f"{cost[f'{how} floor']:,.0f}" for how in ("eager", "compiled")),
        )
        for cost in result["costs"]
    ]
    head = ("operation", "GFLOP", "MB, eager", "MB, compiled", "floor, eager, ns", "floor, compiled, ns")
    took = result["nanoseconds"]
    measured = [(kind, *(f"{took[how][kind]:,.0f}" for how in ("eager", "compiled"))) for kind in took["eager"]]
    total = [("together", *(f"{sum(took[how].values()):,.0f}" for how in ("eager", "compiled")))]
    head_measured = (f"measured, {result['gpu']}", "eager, ns", "compiled, ns")
    return markdown(head, "lrrrrr", on_paper) + "\n" + markdown(head_measured, "lrr", measured + total)


def precisions() -> str:
    """How well scores in lower precisions agree with those in float32."""
    result = benchmark("precision")
    if not result:
        return NOT_MEASURED + "\n"
    rows = []
    for name in ("bfloat16", "bfloat16, compiled", "float8", "int8"):
        domain, lowest = min(result[name]["spearman_by_domain"].items(), key=lambda item: item[1])
        shared = f"{result[name]['top_fifth_shared']:.0%}"
        rows.append((name, f"{result[name]['spearman']:.4f}", f"{lowest:.3f} ({domain})", shared))
    return markdown(("precision", "rank correlation", "lowest in a domain", "top fifths in common"), "lrrr", rows)


def two_models() -> str:
    """Two tables: the heads of each model, and how much the scores of the two models agree."""
    result = read(EXPERIMENTS / "two_models.json")
    if not result:
        return NOT_MEASURED + "\n"
    names, models = zip(*result["models"].items(), strict=True)
    checks = [model["causal_check"] for model in models]
    of_heads = [
        ("retrieval heads", *(f"{len(model['retrieval_heads'])} of {model['heads']}" for model in models)),
        ("the best", *(", ".join(model["retrieval_heads"][:4]) for model in models)),
        ("token accuracy on the probes", *(f"{check['base']:.2f}" for check in checks)),
        ("with these heads masked", *(f"{check['masked']:.2f}" for check in checks)),
        (
            "with as many random others masked, median of 9 (lowest)",
            *(f"{statistics.median(check['random']):.2f} ({min(check['random']):.2f})" for check in checks),
        ),
    ]
    of_domains = [
        (
            domain,
            str(agreement["documents"]),
            *(f"{model['mean_AI_Score'][domain]:.3f}" for model in models),
            f"{agreement['spearman']:.2f}",
            f"{agreement['best_in_common']:.0%}",
        )
        for domain, agreement in result["agreement"].items()
    ]
    head = ("domain", "documents", f"mean AI_Score, {names[0]}", names[1], "rank correlation", "best 20 % in common")
    return markdown(("", *names), "lll", of_heads) + "\n" + markdown(head, "lrrrrr", of_domains)


def heads_matter() -> str:
    result = read(EXPERIMENTS / "heads_matter.json")
    if not result:
        return NOT_MEASURED + "\n"
    rows = [
        (
            *(str(row[name]) for name in ("needs", "task", "metric", "chance", "documents")),
            spread(*row["base"]),
            spread(*row["masked"]),
            ", ".join(f"{value:.3f}" for value, _ in row["random"]),
        )
        for row in result
    ]
    head = ("needs", "task", "metric", "chance", "questions", "whole model", "retrieval heads masked")
    return markdown((*head, "random heads, 3 draws"), "lllrrrrl", rows)


def templates() -> str:
    """For each model and way of scoring: how the heads agree with those of the default."""
    result = read(EXPERIMENTS / "templates.json")
    if not result:
        return NOT_MEASURED + "\n"
    rows = []
    for name, model in result["models"].items():
        for way, found in model["agreement"].items():
            accuracy = model["accuracy"].get(way)
            rows.append(
                (
                    name,
                    way,
                    f"{found['shared']} of {model['retrieval_heads']}",
                    f"{found['spearman']:.3f}",
                    f"{accuracy:.3f}" if accuracy else "the same",
                    f"{model['concentration'][way]:.0%}",
                )
            )
    head = ("model", "probes", "heads shared", "rank correlation", "token accuracy", "share of the best 5 %")
    return markdown(head, "llrrrr", rows)


def heads_by_domain() -> str:
    """For each domain: its heads and scores against those of the other domains, and of other probes of its own."""
    result = read(EXPERIMENTS / "heads_by_domain.json")
    if not result:
        return NOT_MEASURED + "\n"
    rows = []
    for name, row in result["domains"].items():
        shared = ", ".join(f"{count} ({other})" for other, count in row["shared"].items())
        order = ", ".join(f"{value:.3f} ({other})" for other, value in row["spearman"].items())
        rows.append((name, shared, str(row["shared_again"]), order, f"{row['spearman_again']:.3f}"))
    of = f"of {result['heads']} heads, in common with"
    order = "rank correlation of the scores with"
    head = (
        "domain",
        f"{of} other domains",
        f"{of} other probes",
        f"{order} other heads",
        f"{order} those of other probes",
    )
    return markdown(head, "lllll", rows)


def scored_in_part() -> str:
    """For each way to score a part of a document: what it reads, and how well it finds what the whole score chooses."""
    result = read(EXPERIMENTS / "score_tokens.json")
    if not result:
        return NOT_MEASURED + "\n"

    def over_domains(values: dict[str, float], form: str) -> str:
        return f"{statistics.mean(values.values()):{form}} ({min(values.values()):{form}})"

    rows = []
    for name, way in result["ways"].items():
        cheap = way["share_of_tokens"]
        found = [
            f"{over_domains(recall, '.0%')} for {cheap + (float(kept) if number else 0):.0%}"
            for number, (kept, recall) in enumerate(way["recall"].items())
        ]
        rows.append((name, over_domains(way["spearman"], ".2f"), *found))
    head = ("tokens scored", "rank correlation", "the part chooses 20 %", "keeps 40 % to score whole", "keeps 60 %")
    return markdown(head, "lrrrr", rows)


def prefilter() -> str:
    """The recall of the true selection in each domain, by what the predictor learnt from."""
    result = read(EXPERIMENTS / "prefilter.json")
    if not result:
        return NOT_MEASURED + "\n"
    sizes = result["by_size"]
    rows = [
        (
            name,
            f"{found['estimate']:.2f} ({found['low']:.2f} to {found['high']:.2f})",
            f"{found['at_tokens']:.2f}",
            *(f"{of_domain[name]:.2f}" for of_domain in sizes.values()),
            f"{result['across'][name]:.2f}",
        )
        for name, found in result["domains"].items()
    ]
    whole = f"recall, {result['documents']:,} documents"
    learnt = (f"a pilot of {int(size):,}" for size in sizes)
    head = ("domain", whole, f"at {result['scored']:.0%} of the tokens", *learnt, "the other domains alone")
    return markdown(head, "l" + "r" * (len(head) - 1), rows)


def prefilter_features() -> str:
    """The recall with other features and predictors: mean, and the domain where it is lowest."""
    result = read(EXPERIMENTS / "prefilter.json")
    if not result:
        return NOT_MEASURED + "\n"
    rows = []
    for what, found in result["by_features"].items():
        lowest = min(found, key=found.get)
        rows.append((what, f"{statistics.mean(found.values()):.2f}", f"{found[lowest]:.2f} ({lowest})"))
    return markdown(("known", "mean recall of the domains", "lowest"), "lrr", rows)


# Its table 6: whole model, random heads masked, retrieval heads masked; and our task of that kind.
TABLE_6 = {
    "GSM8K": ((0.182, 0.127, 0.007), None),
    "BBH": ((0.317, 0.301, 0.043), None),
    "DROP": ((0.234, 0.219, 0.114), "drop"),
    "in-context classification": ((0.415, 0.384, 0.000), "labels"),
    "MMLU": ((0.426, 0.417, 0.309), "mmlu"),
    "HellaSwag": ((0.572, 0.552, 0.549), "hellaswag"),
}


def table_6() -> str:
    ours = {row["task"]: row for row in read(EXPERIMENTS / "heads_matter.json") or []}
    rows = []
    for task, (theirs, name) in TABLE_6.items():
        cells = NOT_MEASURED
        if row := ours.get(name):
            others = statistics.mean(value for value, _ in row["random"])
            cells = f"{row['base'][0]:.3f} / {others:.3f} / {row['masked'][0]:.3f}"
        rows.append((task, " / ".join(f"{value:.3f}" for value in theirs), cells))
    return markdown(("task", "the paper", "here"), "lrr", rows)


def difference(one: dict) -> str:
    """A difference with its interval."""
    return f"{one['mean']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"


def does_it_help() -> str:
    """Two tables: what became of each hypothesis, and the difference of each arm to random documents, by measure."""
    result = read(EXPERIMENTS / "does_it_help.json")
    if not result:
        return NOT_MEASURED + "\n"
    hypotheses = [
        (name, one["pair"], one["measure"], difference(one), f"{one['smallest']:.4f}", f"**{one['outcome']}**")
        for name, one in result["hypotheses"].items()
    ]
    head = ("", "arms", "measure", "difference (95 % interval)", "smallest to be seen", "outcome")
    against = {
        pair.removesuffix(" - random"): of_pair
        for pair, of_pair in result["comparisons"].items()
        if pair.endswith(" - random")
    }
    control = [run["found"] for run in result["runs"] if run["arm"] == "random"]
    rows = []
    for name in control[0]:
        bold = ["" if of[name]["verdict"] == "not decided" else "**" for of in against.values()]
        cells = [f"{mark}{difference(of[name])}{mark}" for mark, of in zip(bold, against.values(), strict=True)]
        rows.append((name, f"{statistics.mean(found[name] for found in control):.3f}", *cells))
    differences = ("measure", "random", *(f"{arm} - random" for arm in against))
    return markdown(head, "lllrrl", hypotheses) + "\n" + markdown(differences, "lr" + "r" * len(against), rows)


def weak_to_strong() -> str:
    """Mean and standard deviation over seeds, by measure and diet."""
    result = read(EXPERIMENTS / "weak_to_strong.json")
    if not result:
        return NOT_MEASURED + "\n"
    found: dict[str, dict[str, list[float]]] = {}
    for run in result["runs"]:
        for name, value in run["found"].items():
            found.setdefault(name, {}).setdefault(run["arm"], []).append(value)
    rows = [
        (name, *(spread(statistics.mean(values), statistics.stdev(values)) for values in arms.values()))
        for name, arms in found.items()
    ]
    return markdown(("", *next(iter(found.values()))), "lrrrr", rows)


def families() -> str:
    rows = [(family.known_as, family.name, family.trait) for family in runpy.run_path(str(FAMILIES))["FAMILIES"]]
    return markdown(("models", "class", "particular about its attention"), "lll", rows)


def headline_rows() -> list[tuple[str, str, str]]:
    """(what was measured, result, compared with) for the results in README.md."""
    scoring, gpu = map(benchmark, ("scoring_cpu", "scoring_gpu"))
    heads = {row["task"]: row for row in read(EXPERIMENTS / "heads_matter.json") or []}
    models, helps = read(EXPERIMENTS / "two_models.json"), read(EXPERIMENTS / "does_it_help.json")
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
            f"{difference(first)}, {first['verdict']}" if first else NOT_MEASURED,
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
    "two models": (ROOT / "docs/results.md", two_models),
    "heads matter": (ROOT / "docs/results.md", heads_matter),
    "templates": (ROOT / "docs/results.md", templates),
    "heads by domain": (ROOT / "docs/results.md", heads_by_domain),
    "scored in part": (ROOT / "docs/results.md", scored_in_part),
    "prefilter": (ROOT / "docs/results.md", prefilter),
    "prefilter features": (ROOT / "docs/results.md", prefilter_features),
    "table 6": (ROOT / "docs/paper.md", table_6),
    "does it help": (ROOT / "docs/results.md", does_it_help),
    "weak to strong": (ROOT / "docs/results.md", weak_to_strong),
    "benchmarks": (ROOT / "docs/results.md", benchmarks),
    "precisions": (ROOT / "docs/results.md", precisions),
    "roofline": (ROOT / "docs/gpu.md", roofline),
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
