"""Tables of benchmarks/results/."""

import statistics

from tables.cells import AGAINST, NOT_MEASURED, benchmark, markdown, measured, speed


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


@measured(benchmark, "roofline")
def roofline(result: dict) -> str:
    """Two tables: the cost of a token on paper, by operation, and the time that it took, by kind."""
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


@measured(benchmark, "precision")
def precisions(result: dict) -> str:
    """How well scores in lower precisions agree with those in float32."""
    rows = []
    for name in ("bfloat16", "bfloat16, compiled", "float8", "int8"):
        domain, lowest = min(result[name]["spearman_by_domain"].items(), key=lambda item: item[1])
        shared = f"{result[name]['top_fifth_shared']:.0%}"
        rows.append((name, f"{result[name]['spearman']:.4f}", f"{lowest:.3f} ({domain})", shared))
    return markdown(("precision", "rank correlation", "lowest in a domain", "top fifths in common"), "lrrr", rows)
