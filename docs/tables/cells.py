"""The cells of the tables that docs/fill_tables.py writes, and the results that they come from."""

import json
import statistics
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path

ROOT = Path(__file__).parents[2]
BENCHMARKS, EXPERIMENTS = ROOT / "benchmarks/results", ROOT / "experiments/results"
NOT_MEASURED = "not measured"
AGAINST = "times_as_fast_as"  # where a benchmark keeps its ratios


def _read(path: Path) -> dict | list | None:
    """The JSON of a result; None if the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def benchmark(name: str) -> dict | None:
    """A result of benchmarks/."""
    return _read(BENCHMARKS / f"{name}.json")


def experiment(name: str) -> dict | list | None:
    """A result of experiments/."""
    return _read(EXPERIMENTS / f"{name}.json")


def measured(read: Callable[[str], dict | list | None], name: str) -> Callable:
    """Make a function of this result a table; without the result the table says that it is not measured."""

    def with_result(table: Callable[[dict | list], str]) -> Callable[[], str]:
        @wraps(table)
        def filled() -> str:
            result = read(name)
            return table(result) if result else NOT_MEASURED + "\n"

        return filled

    return with_result


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


def over_domains(values: Iterable[float], form: str, worst: Callable) -> str:
    """The mean over domains, and the value that is worst."""
    values = list(values)
    return f"{statistics.mean(values):{form}} ({worst(values):{form}})"
