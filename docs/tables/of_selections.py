"""Tables of experiments/results/ on scores, on what they select, and on what that is good for."""

import statistics

from tables.cells import experiment, markdown, measured, over_domains, spread


@measured(experiment, "what_it_goes_with")
def scores_go_with(result: dict) -> str:
    """For each score with fewer copies: what it goes with, and how much of AI_Score's best fifth it keeps."""
    columns = (("repetition", "+.2f", max), ("L_base", "+.2f", min), ("num_tokens", "+.2f", max))
    columns = (*columns, ("best fifth in common", ".0%", min))
    rows = [
        (
            name.replace("AI_Score_novel_", "AI_Score_novel, n = "),
            *(over_domains((of[column] for of in found["domains"].values()), *how) for column, *how in columns),
            f"{found['auc']:.3f}",
        )
        for name, found in result["scores"].items()
    ]
    rows.append(("a low L_base", "", "", "", "", f"{result['auc of a low L_base']:.3f}"))
    head = ("score", "with repetition", "with L_base", "with length", "best fifth of AI_Score kept", "AUC")
    return markdown(head, "lrrrrr", rows)


@measured(experiment, "what_it_goes_with")
def selections_go_with(result: dict) -> str:
    """For each --within: how much of the selection simpler filters would have selected."""
    columns = (("L_base", max), ("num_tokens", max), ("repetition", max), ("best fifth in common", min))
    rows = [
        (
            f"`--within {name}`" if ":" in name else name,
            *(over_domains((of[column] for of in found.values()), ".0%", worst) for column, worst in columns),
        )
        for name, found in result["within"].items()
    ]
    head = ("the best 20 % inside", "lowest L_base", "longest", "most repetition", "best fifth of the domain kept")
    return markdown(head, "lrrrr", rows)


def mean(way: dict, figure: str) -> float:
    """The mean over domains of a figure of a way to score in part."""
    return statistics.mean(of[figure] for of in way["domains"].values())


def with_band(way: dict, figure: str, form: str = ".0%") -> str:
    """This mean, with its band."""
    low, high = way["bands"][figure]
    return f"{mean(way, figure):{form}} ({low:{form}} to {high:{form}})"


@measured(experiment, "score_tokens")
def scored_in_part(result: dict) -> str:
    """For each way to score a part of a document: what it reads, and how well it finds what the whole score chooses."""
    rows = []
    for name, way in result["ways"].items():
        once = (with_band(way, *figure) for figure in (("spearman", ".2f"), ("recall 0.2",), ("within",)))
        twice = (f"{with_band(way, f'recall {kept}')} for {mean(way, f'read {kept}'):.0%}" for kept in (0.4, 0.6))
        rows.append((name, f"{mean(way, 'read'):.0%}", *once, *twice))
    head = ("tokens scored", "read", "rank correlation", "the part chooses 20 %", "inside fifths of length")
    return markdown((*head, "keeps 40 % to score whole", "keeps 60 %"), "lrrrrrr", rows)


@measured(experiment, "prefilter")
def prefilter(result: dict) -> str:
    """The recall of the true selection in each domain, by what the predictor learnt from."""
    sizes = result["by_size"]
    rows = [
        (
            name,
            f"{found['estimate']:.2f} ({found['low']:.2f} to {found['high']:.2f})",
            f"{found['at_tokens']:.2f}",
            f"{found['share_for']:.0%}",
            *(f"{of_domain[name]:.2f}" for of_domain in sizes.values()),
            f"{result['across'][name]:.2f}",
        )
        for name, found in result["domains"].items()
    ]
    whole = f"recall, {result['documents']:,} documents"
    learnt = (f"a pilot of {int(size):,}" for size in sizes)
    at = (f"at {result['scored']:.0%} of the tokens", "scored for `--recall 0.95`")
    head = ("domain", whole, *at, *learnt, "the other domains alone")
    return markdown(head, "l" + "r" * (len(head) - 1), rows)


@measured(experiment, "prefilter")
def prefilter_features(result: dict) -> str:
    """The recall with other features and predictors: mean, and the domain where it is lowest."""
    rows = []
    for what, found in result["by_features"].items():
        lowest = min(found, key=found.get)
        rows.append((what, f"{statistics.mean(found.values()):.2f}", f"{found[lowest]:.2f} ({lowest})"))
    return markdown(("known", "mean recall of the domains", "lowest"), "lrr", rows)


def difference(one: dict) -> str:
    """A difference with its interval."""
    return f"{one['mean']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"


@measured(experiment, "does_it_help")
def does_it_help(result: dict) -> str:
    """Tables: each hypothesis; the extra documents of each arm; each arm's difference to random documents."""
    hypotheses = [
        (
            name,
            one["pair"],
            one["measure"],
            difference(one),
            "{:+.4f} to {:+.4f}".format(*one["texts"]),
            f"{one['smallest']:.4f}",
            f"**{one['outcome']}**",
        )
        for name, one in result["hypotheses"].items()
    ]
    head = (
        "",
        "arms",
        "measure",
        "difference (95 % interval over seeds)",
        "interval over texts",
        "smallest to be seen",
    )
    tables = [markdown((*head, "outcome"), "lllrrrl", hypotheses), extra_documents(result), differences(result)]
    return "\n".join(tables)


def extra_documents(result: dict) -> str:
    """The extra documents of each arm, mean of the seeds."""
    by_arm: dict[str, list[dict]] = {}
    for read in result["read"]:
        if read["extra"]:
            by_arm.setdefault(read["arm"], []).append(read["extra"])
    names = ("documents", "tokens", "mean length", "in AI_Score's fifth")
    rows = [
        (arm, *(f"{statistics.mean(of[name] for of in each):,.0f}" for name in names)) for arm, each in by_arm.items()
    ]
    head = ("extra documents of a run", "documents", "tokens", "mean length", "tokens also in AI_Score's fifth")
    return markdown(head, "lrrrr", rows)


def differences(result: dict) -> str:
    """The measures before training and with random documents, and the difference of each arm to these."""
    against = {
        pair.removesuffix(" - random"): of_pair
        for pair, of_pair in result["comparisons"].items()
        if pair.endswith(" - random")
    }
    control = [run["found"] for run in result["runs"] if run["arm"] == "random"]
    rows = []
    for name in control[0]:
        size = result["measured"].get(name.rpartition(", ")[2])
        shown = (f"{size['texts']}, {size['tokens']}" if size else "", f"{result['before'][name]:.3f}")
        bold = ["" if of[name]["verdict"] == "not decided" else "**" for of in against.values()]
        cells = [f"{mark}{difference(of[name])}{mark}" for mark, of in zip(bold, against.values(), strict=True)]
        rows.append((name, *shown, f"{statistics.mean(found[name] for found in control):.3f}", *cells))
    head = ("measure", "texts, tokens", "before training", "random", *(f"{arm} - random" for arm in against))
    return markdown(head, "lrrr" + "r" * len(against), rows)


@measured(experiment, "weak_to_strong")
def weak_to_strong(result: dict) -> str:
    """Mean and standard deviation over seeds, by measure and diet."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in result["runs"]:
        for name, value in run["found"].items():
            found.setdefault(name, {}).setdefault(run["arm"], []).append(value)
    rows = [
        (name, *(spread(statistics.mean(values), statistics.stdev(values)) for values in arms.values()))
        for name, arms in found.items()
    ]
    return markdown(("", *next(iter(found.values()))), "lrrrr", rows)
