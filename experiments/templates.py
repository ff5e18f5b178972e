"""Do other probes find other heads? The two templates, another seed, and the two averages, on two small models.

    python experiments/templates.py              about ten minutes on two cores

Needs   data/SmolLM2-135M-Instruct (bash pipeline.sh) and data/gemma-3-270m (experiments/two_models.sh)
Writes  experiments/results/templates.json; python docs/fill_tables.py puts the table into docs/results.md

Every set of probes has NUM_PROBES probes of up to MAX_TOKENS tokens from the sample's sentences. Two ways of scoring
are compared by the heads that are among the best 5 % of both, and by Spearman's rank correlation of all heads' scores.
Another seed of the same template shows how much is chance.
"""

import json
import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from run_script import RESULTS, ROOT
from scipy.stats import spearmanr

from common import cli
from common.model.checkpoints import Runtime, load_model, load_model_tokenizer
from common.model.heads import choose_heads, concentration
from common.model.probes import ProbeOptions, build_probes, usable_sentences
from common.model.retrieval import average_over, encode_probes, run_probe
from common.text.sample import sample_sentences

MODELS = {"SmolLM2-135M": "data/SmolLM2-135M-Instruct", "Gemma 3 270M": "data/gemma-3-270m"}
NUM_PROBES, MAX_TOKENS = 24, 768
SETS = {"published": ("published", 0), "plain": ("plain", 0), "another seed": ("published", 1)}
RESULT = RESULTS / "templates.json"


def agreement(one: np.ndarray, other: np.ndarray) -> dict:
    """How many of the best 5 % of heads two tables of scores share, and the rank correlation of all heads."""
    shared = set(choose_heads(one, 5)) & set(choose_heads(other, 5))
    return {"shared": len(shared), "spearman": float(spearmanr(one, other, axis=None).statistic)}


def compared(folder: str) -> dict:
    """The heads of one model under every set of probes and both averages."""
    runtime = Runtime(device="cpu", dtype="float32")
    model, tokenizer = load_model(folder, runtime), load_model_tokenizer(folder, runtime)
    sentences = sample_sentences()
    random.Random(0).shuffle(sentences)
    sentences = usable_sentences(sentences, tokenizer)
    probes, tokens = {}, {}
    accuracy, scores = {}, {}
    for name, (template, seed) in SETS.items():
        options = ProbeOptions(NUM_PROBES, MAX_TOKENS, seed=seed, template=template)
        probes[name] = encode_probes(list(build_probes(sentences, tokenizer, options)), tokenizer, model)
        tokens[name] = float(np.median([len(probe.input_ids) for probe in probes[name]]))
        asked = cli.progress(NUM_PROBES, f"{folder}, {name}", "probes", probes[name])
        copied, correct = zip(*(run_probe(model, probe, watch=True) for probe in asked), strict=True)
        accuracy[name] = float(np.concatenate(correct).mean())
        scores[name] = average_over("probes", copied)
        if name == "published":
            scores["tokens together"] = average_over("tokens", copied)
    return {
        "heads": scores["published"].size,
        "retrieval_heads": len(choose_heads(scores["published"], 5)),
        "median_tokens": tokens,
        "accuracy": accuracy,
        "concentration": {name: concentration(found) for name, found in scores.items()},
        "agreement": {name: agreement(scores["published"], found) for name, found in scores.items()},
    }


def main(argv: list[str] | None = None) -> None:
    cli.Parser(__doc__).parse_args(argv)
    os.chdir(ROOT)
    result = {"num_probes": NUM_PROBES, "models": {name: compared(folder) for name, folder in MODELS.items()}}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("next: python docs/fill_tables.py")


if __name__ == "__main__":
    cli.run(main)
