"""Does the selection help? Train small models on four diets, mixtures of tokens from one corpus, three seeds each.

    python experiments/weak_to_strong.py                about two hours on two cores with AMX; continues a stopped run
    python experiments/weak_to_strong.py --tokens 20_000_000             more tokens for each model

Needs   steps 1 to 3 done (bash pipeline.sh), pip install -r requirements/eval.txt, --no-deps -r requirements/tasks.txt
Writes  data/weak_to_strong/: corpus, shards, scores, selections, models
        experiments/results/weak_to_strong.json and .png, and the scores next to them; python docs/fill_tables.py puts
        the table into docs/results.md

The corpus (corpus.py) is tokenized twice. Its first POOL_DOCUMENTS documents are tokenized with SmolLM2's tokenizer;
SmolLM2 scores the first POOL_TOKENS of these tokens. The whole corpus is tokenized with a vocabulary of 8,192, which
suits models of 10M parameters. All four diets have the same number of tokens, and for a seed the same initial weights,
order and learning rate:

baseline  the corpus
selected  70 % from the fifth of the scored tokens with the highest AI_Score, 30 % from the corpus
random    70 % from random documents of the same lengths as the selected ones, 30 % from the corpus
bottom    70 % from the fifth with the lowest AI_Score, 30 % from the corpus

Fifths are of the tokens of each domain, so no diet changes the share of a domain, and all three repeat their part
equally. Long documents tend to have high scores. So that length does not explain a difference, the random diet has as
many tokens as the selection in each tenth of a domain's lengths. The bottom is not matched: its documents are short.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from corpus import DOMAINS
from matplotlib.figure import Figure
from run_script import RESULTS, ROOT, run
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from common.files import atomic, read_json, write_json
from common.shards.index import INDEX_SUFFIX, read_index
from common.shards.reader import ShardReader
from common.table.tables import read_scores

WORK = Path("data/weak_to_strong")
SCORER = "data/SmolLM2-135M-Instruct"
TOKENIZER, SEPARATOR, VOCABULARY = WORK / "tokenizer", "<|endoftext|>", 8192
POOL_DOCUMENTS, POOL_TOKENS = 3600, 1_000_000
ARMS = ("baseline", "selected", "random", "bottom")
SEEDS = (0, 1, 2)
MODEL = {
    "model_type": "llama",
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
SEQ_LEN, BATCH_SIZE, LEARNING_RATE = 512, 4, 1e-3
HELD_OUT_DOCUMENTS = 60  # of each domain, at most
QUESTIONS = 200
EARLY, LATE = slice(40, 60), slice(490, 510)  # around token 50 and token 500
RESULT = RESULTS / "weak_to_strong.json"
LENGTHS = 10  # classes of document length in each domain


def make_tokenizer() -> None:
    """Train a byte-level BPE tokenizer on the corpus."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((row["text"] for row in read_jsonl(WORK / "corpus.jsonl")), trainer)
    with atomic(TOKENIZER) as folder:
        transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SEPARATOR).save_pretrained(folder)


def read_jsonl(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def places(pattern: str) -> pd.DataFrame:
    """The place of each document in the shards, in the order in which they were tokenized."""
    found = []
    for path in sorted(WORK.glob(pattern)):
        index = read_index(path.with_suffix(INDEX_SUFFIX))[0].to_pandas()
        found.append(index[["start", "end"]].assign(shard=str(path)))
    return pd.concat(found, ignore_index=True)


def select() -> dict[str, dict]:
    """Select three parts of the pool, and write where their documents are in the training shards; returns counts."""
    pool, corpus = places("pool/*.bin"), places("shards/*.bin")
    doc_ids = pool["shard"].str.removesuffix(".bin") + ":" + pool["start"].astype(str) + "-" + pool["end"].astype(str)
    score(doc_ids)
    scores = read_scores(WORK / "scores.tsv")[["doc_id", "domain", "num_tokens"]]
    chosen = {}
    for arm, end in (("selected", "top"), ("bottom", "bottom")):
        as_published = "--max_repetition 1 --dedup none"
        flags = f"--by tokens --{end}_pct 20 {as_published} --out {WORK}/pool_{arm}.tsv"
        run("rank_scores.py", f"--scores {WORK}/scores.tsv {flags}")
        chosen[arm] = pq.read_table(WORK / f"pool_{arm}.parquet", columns=["doc_id"]).to_pandas()["doc_id"]
    chosen["random"] = like(scores, set(chosen["selected"]))
    facts = {}
    for arm, wanted in chosen.items():
        rows = corpus[doc_ids.isin(set(wanted)).reindex(corpus.index, fill_value=False)]
        assert len(rows) == len(wanted)
        pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), WORK / f"{arm}.parquet")
        facts[arm] = {"documents": len(rows), "tokens": int((rows["end"] - rows["start"]).sum())}
        facts[arm]["also selected"] = len(set(wanted) & set(chosen["selected"]))
    return facts


def score(doc_ids: pd.Series) -> None:
    """Score the pool, in half an hour, or copy the scores of the same documents from the results."""
    kept = RESULTS / "weak_to_strong_scores.tsv"
    if kept.exists():
        known = pd.read_csv(kept, sep="\t", usecols=["doc_id"])["doc_id"]
        if known.tolist() == doc_ids[: len(known)].tolist():
            shutil.copy(kept, WORK / "scores.tsv")
            return
    run(
        "attention_influence_scoring.py",
        f"--base_model {SCORER} --data {WORK}/pool/*.bin --seq_len 2048 --dtype bfloat16 --max_tokens {POOL_TOKENS} "
        f"--out {WORK}/scores.tsv",
    )
    shutil.copy(WORK / "scores.tsv", kept)


def like(scores: pd.DataFrame, selected: set[str]) -> pd.Series:
    """Random documents with about as many tokens as the selected ones, in each domain and class of length."""
    shuffled = scores.sample(frac=1, random_state=0)
    length = shuffled.groupby("domain", observed=True)["num_tokens"].transform(
        lambda lengths: pd.qcut(lengths, LENGTHS, labels=False, duplicates="drop")
    )
    groups = [shuffled["domain"], length]
    wanted = shuffled["num_tokens"].where(shuffled["doc_id"].isin(selected), 0).groupby(groups).transform("sum")
    before = shuffled.groupby(groups)["num_tokens"].cumsum() - shuffled["num_tokens"]
    return shuffled.loc[before + shuffled["num_tokens"] / 2 <= wanted, "doc_id"]


def train(arm: str, seed: int, tokens: int) -> Path:
    """Train one model; returns its folder."""
    mix = "baseline=1" if arm == "baseline" else f"selected=0.7 baseline=0.3 --selected {WORK}/{arm}.parquet"
    folder = WORK / f"models-{tokens}/{arm}-{seed}"
    run(
        "pretrain.py",
        f"--config {WORK}/config.json --data {WORK}/shards/*.bin --mix {mix} --max_tokens {tokens} --seq_len {SEQ_LEN} "
        f"--batch_size {BATCH_SIZE} --device_batch_size {BATCH_SIZE} --learning_rate {LEARNING_RATE} --warmup_pct 5 "
        f"--seed {seed} --num_workers 0 --log_every 5 --out_dir {folder}",
    )
    return folder / "model"


def questions(task: str, before: str, after: str) -> list[str]:
    """Questions with their worked answers, from the data of common/evaluation/tasks/."""
    sys.path.insert(0, str(ROOT / "common/evaluation/tasks"))
    import local

    rows = local.read_requests(task)[:QUESTIONS]
    return [f"{row['doc'][before]}\n{row['doc'][after]}" for row in rows]


class Texts:
    """The held-out texts and probes that all models are measured on, in tokens."""

    def __init__(self):
        self.by_domain: dict[str, list[list[int]]] = {domain: [] for domain in DOMAINS}
        for path in sorted(WORK.glob("held_out/*.bin")):
            shard = ShardReader().open(path)
            for domain, (start, end) in zip(shard.domains, shard.spans, strict=True):
                if len(self.by_domain[domain]) < HELD_OUT_DOCUMENTS:
                    self.by_domain[domain].append(shard.tokens[start:end].astype(np.int64).tolist())
        tokenizer = transformers.AutoTokenizer.from_pretrained(TOKENIZER)
        encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
        self.by_domain["GSM8K"] = [encode(text) for text in questions("gsm8k/gold_bpb_5shot", "question", "answer")]
        maths = questions("minerva_math_algebra/gold_bpb_0shot", "problem", "solution")
        self.by_domain["MATH"] = [encode(text) for text in maths]
        self.probes = [
            (encode(probe["prompt"]), encode(probe["prompt"] + probe["answer"]))
            for probe in read_jsonl(WORK / "probes.jsonl")
        ]


@torch.inference_mode()
def losses(model: transformers.PreTrainedModel, token_ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss in nats of each token after the first, up to SEQ_LEN, and whether it was the most likely token."""
    ids = torch.tensor([token_ids[:SEQ_LEN]])
    logits = model(input_ids=ids).logits[0, :-1].float()
    targets = ids[0, 1:]
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets


def measure(path: Path, texts: Texts) -> dict[str, float]:
    """All measures of one model, by name."""
    model = transformers.AutoModelForCausalLM.from_pretrained(ROOT / path, dtype=torch.float32).eval()
    found, early, late = {}, [], []
    for domain, documents in texts.by_domain.items():
        each = [losses(model, document)[0] for document in documents]
        found[f"loss, {domain}"] = torch.cat(each).mean().item()
        if domain in DOMAINS:
            long = [loss for loss in each if len(loss) >= LATE.stop]
            early += [loss[EARLY].mean().item() for loss in long]
            late += [loss[LATE].mean().item() for loss in long]
    found["loss, mean of the domains"] = statistics.mean(found[f"loss, {domain}"] for domain in DOMAINS)
    found["gain from token 50 to 500"] = statistics.mean(early) - statistics.mean(late)
    answers = [tuple(part[len(prompt) - 1 :] for part in losses(model, whole)) for prompt, whole in texts.probes]
    found["loss, probes' answers"] = torch.cat([loss for loss, _ in answers]).mean().item()
    found["token accuracy on probes"] = torch.cat([hit for _, hit in answers]).float().mean().item()
    return found


def draw(result: dict, path: Path) -> None:
    """Draw the difference of each diet to the baseline, with one point for each seed."""
    runs = {(one["arm"], one["seed"]): one["found"] for one in result["runs"]}
    names = list(result["runs"][0]["found"])
    figure = Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    for shift, arm, colour in zip((-0.22, 0, 0.22), ARMS[1:], ("tab:green", "tab:gray", "tab:red"), strict=True):
        for seed in SEEDS:
            differences = [runs[arm, seed][name] - runs["baseline", seed][name] for name in names]
            places_ = np.arange(len(names)) + shift
            axes.scatter(differences, places_, color=colour, s=22, label=arm if seed == SEEDS[0] else None)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("difference to the baseline of the same seed")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(title="70 % of the tokens from")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2_000_000, help="to train each model on")
    tokens = parser.parse_args().tokens
    os.chdir(ROOT)
    if not (WORK / "held_out.jsonl").exists():
        run("experiments/corpus.py", f"--out_dir {WORK}")
    if not TOKENIZER.exists():
        make_tokenizer()
    flags = "--domain_column domain --input"
    run(
        "fineweb.py",
        f"--tokenizer {TOKENIZER} {flags} {WORK}/corpus.jsonl --shard_size 5_000_000 --out_dir {WORK}/shards",
    )
    run("fineweb.py", f"--tokenizer {TOKENIZER} {flags} {WORK}/held_out.jsonl --out_dir {WORK}/held_out")
    run(
        "fineweb.py",
        f"--tokenizer {SCORER} {flags} {WORK}/corpus.jsonl --max_docs {POOL_DOCUMENTS} --shard_size 200_000 "
        f"--out_dir {WORK}/pool",
    )
    result = {"tokens": tokens, "torch": torch.__version__, "model": MODEL, "parts": select(), "runs": []}
    run(
        "generate_retrieval_probes.py",
        f"--tokenizer {TOKENIZER} --num_probes 100 --max_tokens 500 --out {WORK}/probes.jsonl",
    )
    (WORK / "config.json").write_text(json.dumps(MODEL))
    texts = Texts()
    for seed in SEEDS:
        for arm in ARMS:
            model = train(arm, seed, tokens)
            measured = model.with_name("measured.json")
            if not measured.exists():
                write_json(measured, measure(model, texts))
            result["runs"].append({"arm": arm, "seed": seed, "found": read_json(measured)})
            print(measured.read_text(), flush=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result, RESULT.with_suffix(".png"))
    print("next: python docs/fill_tables.py")


if __name__ == "__main__":
    main()
