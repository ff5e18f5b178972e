"""Choosing documents by prefilter_scores.py on one core, against fastText's predict and datatrove's filters.

    bash benchmarks/run.sh prefilter

The corpus is text of the running Python installation, as for tokenizing.py, in one JSONL file of --megabytes. The
contenders work on documents in memory; `apply` is the whole step, from the file to kept.parquet. fastText has 50
dimensions and pairs of words, as for classifiers of web text. datatrove's filters are those of FineWeb: C4's, and
Gopher's of quality and of repetition; only a tenth of the documents goes through them. Seconds are the processor's.
"""

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from measure import flags, in_turn, ratios, save
from tokenizing import FILES, ROOT, write_corpus

TENTH = 10


def read(folder: Path) -> list[str]:
    """The texts of a corpus."""
    lines = (line for number in range(FILES) for line in (folder / f"{number}.jsonl").open(encoding="utf-8"))
    return [json.loads(line)["text"] for line in lines]


def learn(folder: Path, texts: list[str]) -> None:
    """A predictor of random ranks: what it predicts costs as much."""
    import numpy as np

    from common.files import file_digest, write_json
    from common.prefilter.features import features_of
    from common.prefilter.learning import RECORD
    from common.prefilter.predictor import PREDICTOR, fit
    from common.prefilter.price_list import price

    rng, num = np.random.default_rng(0), min(len(texts), 500)
    ranks = rng.random(num) - 0.5
    fit(features_of(texts[:num]), ranks, np.full(num, "default")).write(folder / PREDICTOR)
    prices = {"default": vars(price(ranks, ranks, np.ones(num), 20))}
    digest = file_digest(folder / PREDICTOR).hex()
    write_json(
        folder / RECORD, {"score": "AI_Score", "top_pct": 20, "whole": {}, "prices": prices, "predictor": digest}
    )


def with_features(folder: Path, texts: list[str]) -> None:
    from common.prefilter.applying import BATCH_DOCUMENTS
    from common.prefilter.features import features_of
    from common.prefilter.predictor import PREDICTOR, Predictor

    predictor = Predictor.read(folder / PREDICTOR)
    for first in range(0, len(texts), BATCH_DOCUMENTS):
        predictor("default", features_of(texts[first : first + BATCH_DOCUMENTS]))


def with_apply(folder: Path) -> None:
    import prefilter_scores

    prefilter_scores.main(
        f"apply --input {folder}/*.jsonl --keep 0.4 --prefilter {folder}/prefilter --overwrite".split()
    )
    for path in (folder / "prefilter/parts").iterdir():
        path.unlink()


def fasttext_model(folder: Path, texts: list[str]) -> object:
    import fasttext

    rng, path = random.Random(0), folder / "labelled.txt"
    path.write_text("".join(f"__label__{rng.choice('ab')} {' '.join(text.split())}\n" for text in texts[:500]))
    return fasttext.train_supervised(str(path), epoch=1, wordNgrams=2, dim=50, thread=1, verbose=0)


def datatrove_filters() -> list:
    from datatrove.pipeline.filters import C4QualityFilter, GopherQualityFilter, GopherRepetitionFilter

    return [C4QualityFilter(), GopherQualityFilter(), GopherRepetitionFilter()]


def through(filter_: object, texts: list[str]) -> None:
    from datatrove.data import Document

    for text in texts:
        filter_.filter(Document(text=text, id=""))


def timed(run: Callable[[], object], taken: list[float]) -> None:
    """Run, and note the processor's seconds: other users of the machine do not count."""
    begin = time.process_time()
    run()
    taken.append(time.process_time() - begin)


def main() -> None:
    args = flags(__doc__, megabytes=20.0, rounds=3)
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "corpus", args.megabytes)
        texts = read(folder / "corpus")
        work = folder / "corpus"
        (work / "prefilter").mkdir()
        learn(work / "prefilter", texts)
        model, tenth = fasttext_model(folder, texts), texts[::TENTH]
        contenders = {
            "features and prediction": lambda: with_features(work / "prefilter", texts),
            "apply": lambda: with_apply(work),
            "fastText": lambda: [model.predict(text.replace("\n", " ")) for text in texts],
        }
        for each in datatrove_filters():
            contenders[type(each).__name__] = lambda each=each: through(each, tenth)
        cpu = {name: [] for name in contenders}
        in_turn({name: partial(timed, run, cpu[name]) for name, run in contenders.items()}, args.rounds)
    whole, part = (sum(len(text.encode()) for text in some) / 1e6 for some in (texts, tenth))
    per_megabyte = {
        name: [each / (part if name.endswith("Filter") else whole) for each in taken[1:]] for name, taken in cpu.items()
    }
    save(
        "prefilter",
        {
            "what": f"{whole:.0f} MB of text in {len(texts):,} documents, one core",
            "megabytes_per_second": {name: [1 / each for each in taken] for name, taken in per_megabyte.items()},
            "times_as_fast_as": ratios(per_megabyte, "apply"),
        },
    )


if __name__ == "__main__":
    main()
