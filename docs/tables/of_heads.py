"""Tables of experiments/results/ on retrieval heads, and on what masking them does."""

import statistics

from tables.cells import NOT_MEASURED, experiment, markdown, measured, spread


@measured(experiment, "two_models")
def two_models(result: dict) -> str:
    """Two tables: the heads of each model, and how much the scores of the two models agree."""
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


@measured(experiment, "heads_matter")
def heads_matter(result: dict) -> str:
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


@measured(experiment, "templates")
def templates(result: dict) -> str:
    """For each model and way of scoring: how the heads agree with those of the default."""
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


@measured(experiment, "heads_by_domain")
def heads_by_domain(result: dict) -> str:
    """For each domain: its heads and scores against those of the other domains, and of other probes of its own."""
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
    ours = {row["task"]: row for row in experiment("heads_matter") or []}
    rows = []
    for task, (theirs, name) in TABLE_6.items():
        cells = NOT_MEASURED
        if row := ours.get(name):
            others = statistics.mean(value for value, _ in row["random"])
            cells = f"{row['base'][0]:.3f} / {others:.3f} / {row['masked'][0]:.3f}"
        rows.append((task, " / ".join(f"{value:.3f}" for value in theirs), cells))
    return markdown(("task", "the paper", "here"), "lrr", rows)
