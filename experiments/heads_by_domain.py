"""Do the retrieval heads depend on the domain whose sentences the probes hold? SmolLM2-135M on your own domains.

    python experiments/heads_by_domain.py 'texts/*.jsonl.zst'        about 20 minutes of two cores, in bfloat16

Needs   data/SmolLM2-135M-Instruct (bash pipeline.sh); files of documents with the fields id and text, one for each
        domain, named after it
Writes  experiments/results/heads_by_domain.json; python docs/fill_tables.py puts the table into docs/results.md

Python's own library is a domain of its own, code. Each domain has probes from its sentences, and a second set of them
to show what is chance. The heads are the best 5 %. DOCUMENTS documents of each domain, cut to TOKENS tokens, are scored
with the heads of every domain; Spearman's rank correlation says whether the order within the domain stays.
"""

import json
import os
import random
import sys
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from pilot import documents_of
from run_script import RESULTS, ROOT
from scipy.stats import spearmanr

from common import cli
from common.model.attention import mask_heads_at_run_time
from common.model.checkpoints import Runtime, load_model, load_model_tokenizer
from common.model.heads import Head, choose_heads
from common.model.masking import run_time_masks
from common.model.probes import ProbeOptions, build_probes, usable_sentences
from common.model.retrieval import encode_probes, score_heads
from common.text.sample import split_sentences

MODEL = ROOT / "data/SmolLM2-135M-Instruct"
NUM_PROBES, MAX_TOKENS = 40, 512
DOCUMENTS, TOKENS, READ = 120, 256, 1000
RESULT = RESULTS / "heads_by_domain.json"


def losses(model, ids: list[int], sets: list[list[Head]]) -> list[float]:
    """The mean loss of a document with each of these sets of heads masked; the layers below all of them run once."""
    everything, targets = model.model.layers, torch.tensor(ids[1:])
    first = min(head.layer for heads in sets for head in heads)
    found, inputs = [], []
    hook = everything[first].register_forward_pre_hook(lambda layer, args: inputs.append(args[0]))
    model(torch.tensor([ids]), use_cache=False, logits_to_keep=1)
    hook.remove()
    for heads in sets:
        with mask_heads_at_run_time(model, run_time_masks(heads, "uniform")):
            model.model.layers = everything[first:]
            logits = model(inputs_embeds=inputs[0], use_cache=False).logits[0, :-1].float()
            model.model.layers = everything
        found.append(torch.nn.functional.cross_entropy(logits, targets).item())
    return found


def heads_of(model, tokenizer, texts: list[str], seed: int, name: str) -> list[Head]:
    """The retrieval heads by probes from these texts, sorted."""
    sentences = [sentence for text in texts for sentence in split_sentences(text)]
    random.Random(0).shuffle(sentences)
    probes = build_probes(
        usable_sentences(sentences[:5_000], tokenizer), tokenizer, ProbeOptions(NUM_PROBES, MAX_TOKENS, seed=seed)
    )
    encoded = encode_probes(list(probes), tokenizer, model)
    with cli.progress(sum(len(probe.input_ids) for probe in encoded), f"heads of {name}") as bar:
        scores, accuracy = score_heads(model, encoded, bar.update)
    print(f"{name}: {accuracy:.1%} of the answers' tokens", flush=True)
    return sorted(choose_heads(scores, 5))


def order_within(model, documents: list[list[int]], heads: dict[str, list[Head]], own: str) -> dict[str, float]:
    """Rank correlation of AI_Score under the domain's own heads with that under each of the others."""
    sets = sorted({tuple(found) for found in heads.values()})
    with torch.inference_mode():
        found = [losses(model, ids, [[], *sets]) for ids in cli.progress(DOCUMENTS, own, "documents", documents)]
    base, *masked = np.array(found).T
    scores = {key: (loss - base) / base for key, loss in zip(sets, masked, strict=True)}
    mine = scores[tuple(heads[own])]
    return {name: float(spearmanr(mine, scores[tuple(found)]).statistic) for name, found in heads.items()}


def main(argv: list[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("files", nargs="+", help="files or globs, one file for each domain")
    documents = documents_of(parser.parse_args(argv).files)
    texts = {name: [document.text for document in of_domain[:READ]] for name, of_domain in documents.items()}
    os.chdir(ROOT)
    runtime = Runtime(device="cpu", dtype="bfloat16")
    model, tokenizer = load_model(str(MODEL), runtime), load_model_tokenizer(str(MODEL), runtime)
    again = {name: heads_of(model, tokenizer, texts[name], 1, name) for name in texts}
    heads = {name: heads_of(model, tokenizer, texts[name], 0, name) for name in texts}
    rows = {}
    for name, of_domain in texts.items():
        encoded = (tokenizer.encode(text) for text in of_domain)
        documents = list(islice((ids[:TOKENS] for ids in encoded if len(ids) >= TOKENS), DOCUMENTS))
        found = order_within(model, documents, {**heads, "again": again[name]}, name)
        shared = {other: len({*heads[name]} & {*heads[other]}) for other in heads if other != name}
        rows[name] = {
            "documents": len(documents),
            "shared": shared,
            "shared_again": len({*heads[name]} & {*again[name]}),
            "spearman": {other: found[other] for other in shared},
            "spearman_again": found["again"],
        }
        print(name, rows[name], flush=True)
    result = {"heads": len(next(iter(heads.values()))), "tokens": TOKENS, "domains": rows}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("next: python docs/fill_tables.py")


if __name__ == "__main__":
    cli.run(main)
