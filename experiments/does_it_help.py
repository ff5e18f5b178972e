"""Does the selection help? SmolLM2-135M trained further on a corpus plus extra tokens, six kinds of extra tokens.

    python experiments/does_it_help.py                          for two cores with bfloat16
    python experiments/does_it_help.py --tokens 1_000_000 --batch_size 16 --measured 20_000          larger, for a GPU

Needs   experiments/pilot.py done, pip install -r requirements/eval.txt, --no-deps -r requirements/tasks.txt
Writes  data/does_it_help/: shards, selections, probes, and measured.json of each run; the same command continues
        experiments/results/does_it_help.json and .png; python docs/fill_tables.py puts the tables into docs/results.md

The mix is the paper's: 76.5 % of the tokens from the corpus, 23.5 % extra. The corpus is the pool that pilot.py scored.
Extra tokens come from a fifth of the tokens of each domain of that pool, so no arm changes the share of a domain:

AI_Score           the highest AI_Score
AI_Score_novel     the highest AI_Score_novel, which leaves out tokens that copy (n = 5)
random             random documents, in each domain and class of length as many tokens as in the AI_Score arm
lowest L_base      the lowest loss of the base model, a perplexity filter
lowest AI_Score    the lowest AI_Score
corpus             nothing extra: all tokens from the corpus

All arms have the same number of tokens and steps. For one seed, all arms start from the same weights, and those with
extra tokens read the same tokens of the corpus at the same steps. No document is read more often than in the paper: no
part of the corpus more than once, no selected document more than twice, once of these as a part of the corpus.

Measured on each model, all losses in nats per token: held-out documents of each domain, from sources of which nothing
is in the pool, and the mean of the domains; worked solutions of GSM8K and MATH; the last word of LAMBADA; the first
accepted answer of SQuAD and DROP, after passage and question; the answers of probes, and the share of their tokens that
are the model's first choice; and how much the loss falls from token 50 to token 500 of held-out documents. "What needs
the context" is the mean of the losses of LAMBADA, SQuAD, DROP and the probes.

Written before the first run:

H1  AI_Score has a lower mean held-out loss than random.                                    The claim; primary
H2  AI_Score has a lower mean held-out loss than lowest L_base.                             More than perplexity
H3  AI_Score_novel has a lower mean held-out loss than AI_Score.                            Copies do harm
H4  Lowest AI_Score has a higher mean held-out loss than random.                            The other end
H5  AI_Score is better than random at what needs the context (their mean loss), and falls more from token 50 to 500.

Decision: for each pair of arms and measure, the differences of the runs of one seed are a sample; their mean has a 95 %
interval by Student's t. An arm "helps" or "harms" against the other only if that interval leaves out 0; otherwise it is
"not decided". A hypothesis is confirmed if its arm helps (in H4: harms), refuted if it does the opposite, else not
decided. Only these hypotheses are tested; all other differences, of which one in twenty leaves out 0 by chance, are for
orientation. The smallest difference that the design could have seen is the one that such a test finds in four of five
repetitions: (t(97.5 %) + t(80 %)) times the standard error. The interval speaks of other seeds (draws and orders of
training text), not of other held-out documents, corpora or models.
"""

import argparse
import gc
import hashlib
import itertools
import json
import os
import statistics
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import numpy as np
import pandas as pd
import torch
import transformers
from matplotlib.figure import Figure
from measure import machine
from pilot import RESULT as SCORES
from pilot import WORK as PILOT
from pilot import add_dtype_flag
from run_script import RESULTS, ROOT, run
from scipy import stats

import pretrain
from common import cli
from common.errors import InputError
from common.files import atomic, file_digest, read_json, remove, write_json
from common.shards.index import INDEX_SUFFIX, read_index
from common.text.tokenization import load_tokenizer
from common.training.mixture import DocumentStream, Mixture

WORK = Path("data/does_it_help")
MODEL = "data/SmolLM2-135M-Instruct"
RESULT = RESULTS / "does_it_help.json"
EXTRA, FIFTH, LENGTHS = 0.235, 0.2, 10  # the paper's share of extra tokens; classes of length in each domain
SEQ_LEN, MOST_TEXTS = 512, 200
EARLY, LATE = slice(40, 60), slice(490, 510)  # around token 50 and token 500
PRIMARY, CONTEXT, GAIN = (
    "loss, mean of the domains",
    "loss, mean of what needs the context",
    "fall from token 50 to 500",
)
RANDOM, CORPUS = "random", "corpus"
# Of each arm, what its documents are sorted by, and whether the highest come first.
SORTED = {
    "AI_Score": ("AI_Score", True),
    "AI_Score_novel": ("AI_Score_novel_5", True),
    "lowest L_base": ("L_base", False),
    "lowest AI_Score": ("AI_Score", False),
}
ARMS = ("AI_Score", "AI_Score_novel", RANDOM, "lowest L_base", "lowest AI_Score", CORPUS)
# The hypotheses: the arm, the other, the measure, and what the arm should do against the other.
HYPOTHESES = {
    "H1": ("AI_Score", RANDOM, PRIMARY, "helps"),
    "H2": ("AI_Score", "lowest L_base", PRIMARY, "helps"),
    "H3": ("AI_Score_novel", "AI_Score", PRIMARY, "helps"),
    "H4": ("lowest AI_Score", RANDOM, PRIMARY, "harms"),
    "H5, mean loss": ("AI_Score", RANDOM, CONTEXT, "helps"),
    "H5, fall": ("AI_Score", RANDOM, GAIN, "helps"),
}
TASKS = {
    "GSM8K": "gsm8k/gold_bpb_5shot",
    "MATH": "minerva_math_500/gold_bpb_0shot",
    "LAMBADA": "lambada/bpb_0shot",
    "SQuAD": "squad/bpb_5shot",
    "DROP": "drop/bpb_5shot",
}
NEEDS_CONTEXT = ("LAMBADA", "SQuAD", "DROP", "probes")

Text = tuple[list[int], int]  # token ids, and the first of them whose loss counts


def best(scores: pd.DataFrame, column: str, highest: bool) -> pd.Index:
    """The rows of the documents that come first by a column, a fifth of the tokens of each domain."""
    ordered = scores.sort_values(column, ascending=not highest, kind="stable")
    tokens = ordered["num_tokens"].groupby(ordered["domain"])
    return ordered.index[tokens.cumsum() - ordered["num_tokens"] / 2 <= FIFTH * tokens.transform("sum")]


def like(scores: pd.DataFrame, selected: pd.Index, seed: int) -> pd.Index:
    """Rows of random documents with about as many tokens as the selected ones, in each domain and class of length."""
    shuffled = scores.sample(frac=1, random_state=seed)
    length = shuffled.groupby("domain")["num_tokens"].transform(
        lambda lengths: pd.qcut(lengths, LENGTHS, labels=False, duplicates="drop")
    )
    groups = [shuffled["domain"], length]
    wanted = shuffled["num_tokens"].where(shuffled.index.isin(selected), 0).groupby(groups).transform("sum")
    before = shuffled.groupby(groups)["num_tokens"].cumsum() - shuffled["num_tokens"]
    return shuffled.index[before + shuffled["num_tokens"] / 2 <= wanted]


def documents(folder: Path) -> pd.DataFrame:
    """The pool: where each document is in the shards, and its scores."""
    scores, found = pd.read_parquet(SCORES), []
    for path in sorted(folder.glob("shards/*.bin")):
        index = read_index(path.with_suffix(INDEX_SUFFIX), ["start", "end", "id", "domain"])[0].to_pandas()
        found.append(index[["start", "end", "id", "domain"]].assign(shard=str(path)))
    pool = pd.concat(found).merge(scores, on=["domain", "id"], validate="1:1")
    if not (pool["num_tokens"] == pool["end"] - pool["start"]).all():
        raise InputError(f"{SCORES}: not the scores of {PILOT}/pool.jsonl; run experiments/pilot.py again")
    return pool


def select(pool: pd.DataFrame, seed: int, folder: Path) -> dict[str, dict[str, int]]:
    """Write the extra documents of each arm; returns how many there are, and the tokens shared with AI_Score's."""
    chosen = {arm: best(pool, *order) for arm, order in SORTED.items()}
    chosen[RANDOM] = like(pool, chosen["AI_Score"], seed)
    facts = {}
    for arm, rows in chosen.items():
        with atomic(selection(arm, seed, folder)) as tmp:
            pool.loc[rows, ["shard", "start", "end"]].to_parquet(tmp, index=False)
        tokens = pool.loc[rows, "num_tokens"]
        also = tokens[rows.isin(chosen["AI_Score"])]
        facts[arm] = {"documents": len(rows), "tokens": int(tokens.sum()), "also by AI_Score": int(also.sum())}
    return facts


def plain(arm: str) -> str:
    """An arm's name in that of a file."""
    return arm.replace(" ", "_")


def selection(arm: str, seed: int, folder: Path) -> Path:
    """The file with the places of an arm's extra documents."""
    return folder / f"{plain(arm)}-{seed}.parquet"


def shares(arm: str) -> dict[str, float]:
    """The mix of an arm."""
    return {"baseline": 1.0} if arm == CORPUS else {"selected": EXTRA, "baseline": 1 - EXTRA}


def reading(arm: str, seed: int, folder: Path, num_sequences: int) -> dict[str, int]:
    """How many tokens an arm reads of the corpus and of its selection; InputError if it reads a part of one twice."""
    streams = {"baseline": DocumentStream.of_shards([f"{folder}/shards/*.bin"])}
    if arm != CORPUS:
        streams = {"selected": DocumentStream.of_selection(selection(arm, seed, folder)), **streams}
    mixture = Mixture(streams, shares(arm), SEQ_LEN, seed, num_sequences)
    drawn = Counter(mixture.place(number)[0] for number in range(num_sequences))
    for name, stream in streams.items():
        if drawn[name] * SEQ_LEN > stream.num_tokens:
            raise InputError(
                f"--tokens {num_sequences * SEQ_LEN}: {arm} reads {drawn[name] * SEQ_LEN} tokens of {name}, which has "
                f"{stream.num_tokens}, so more often than in the paper; lower it"
            )
    return {name: drawn[name] * SEQ_LEN for name in streams}


def train(arm: str, seed: int, args: argparse.Namespace, folder: Path, out_dir: Path) -> Path:
    """Train one model; returns its folder."""
    mix = " ".join(f"{name}={share}" for name, share in shares(arm).items())
    flags = (
        f"--model {args.model} --tokenizer {args.model} --data {folder}/shards/*.bin --mix {mix} "
        f"--selected {selection(arm, seed, folder)} --max_tokens {args.tokens} --seq_len {SEQ_LEN} --seed {seed} "
        f"--batch_size {args.batch_size} --device_batch_size {args.batch_size} --dtype {args.dtype} --num_workers 0 "
        f"--learning_rate {args.learning_rate} --warmup_pct 10 --decay_pct 25 --log_every 10 "
        f"--trainer save_strategy=no --out_dir {out_dir}"
    )
    print(f"$ python pretrain.py {flags}", flush=True)
    pretrain.main(flags.split())  # in this process, because importing torch can take as long as training
    gc.collect()
    return out_dir / "model"


def read_jsonl(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def questions(task: str) -> list[tuple[str, str]]:
    """Questions of a task with their first accepted answers, from the data of common/evaluation/tasks/."""
    sys.path.insert(0, str(ROOT / "common/evaluation/tasks"))
    import local

    found = []
    for document in (row["doc"] for row in local.read_requests(task)):
        answer = document["choices"][0]
        query = document.get("query") or f"Question: {document['question']}\nAnswer:"
        found.append((query, " " + (answer if isinstance(answer, str) else answer[0])))
    return found


def texts(model: str, folder: Path) -> dict[str, dict[str, list[Text]]]:
    """What all models are measured on: held-out documents by domain, and what is asked by task; kept in a file."""
    path = folder / "texts.json"
    if not path.exists():
        encode = load_tokenizer(model).encode
        found: dict[str, dict[str, list[Text]]] = {"held out": {}, "asked": {}}
        for document in read_jsonl(PILOT / "held_out.jsonl"):
            ids = encode(document["text"])[: SEQ_LEN + 1]
            found["held out"].setdefault(document["domain"], []).extend([(ids, 1)] * (len(ids) > SEQ_LEN))
        pairs = {name: questions(task) for name, task in TASKS.items()}
        pairs["probes"] = [(probe["prompt"], probe["answer"]) for probe in read_jsonl(folder / "probes.jsonl")]
        for name, each in pairs.items():
            encoded = ((encode(question), encode(answer)) for question, answer in each[:MOST_TEXTS])
            both = [(query + answer, len(query)) for query, answer in encoded]
            found["asked"][name] = [text for text in both if len(text[0]) <= SEQ_LEN]
        write_json(path, found)
    return read_json(path)


@torch.inference_mode()
def losses(model: transformers.PreTrainedModel, text: Text) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss in nats of each token that counts, and whether it was the most likely token."""
    ids, first = torch.tensor([text[0]], device=model.device), text[1]
    logits = model(input_ids=ids, logits_to_keep=ids.shape[1] - first + 1).logits[0, :-1].float()
    targets = ids[0, first:]
    return torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu(), (
        logits.argmax(-1) == targets
    ).cpu()


def first_of(texts_: list[Text], tokens: int) -> list[Text]:
    """The first texts, as many as have together at most so many tokens whose losses are computed; at least one."""
    ends = itertools.accumulate(len(ids) - 1 for ids, _ in texts_)
    return texts_[: max(1, sum(end <= tokens for end in ends))]


def measure(path: Path, measured: dict[str, dict[str, list[Text]]], tokens: int) -> dict[str, float]:
    """All measures of one model, by name, on at most `tokens` tokens of each domain and task.

    In float32: bfloat16 changes the difference of two models by more than the arms differ.
    """
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    domains, each = measured["held out"], {}
    for name, of_name in (domains | measured["asked"]).items():
        each[name] = [losses(model, text) for text in first_of(of_name, tokens)]
    mean = {name: torch.cat([loss for loss, _ in of_name]).mean().item() for name, of_name in each.items()}
    long = torch.stack([loss for name in domains for loss, _ in each[name]])
    return {
        PRIMARY: statistics.mean(mean[name] for name in domains),
        CONTEXT: statistics.mean(mean[name] for name in NEEDS_CONTEXT),
        GAIN: (long[:, EARLY].mean() - long[:, LATE].mean()).item(),
        **{f"loss, {name}": value for name, value in mean.items()},
        "token accuracy, probes": torch.cat([hit for _, hit in each["probes"]]).float().mean().item(),
    }


def compare(differences: list[float], higher_is_better: bool) -> dict[str, float | str]:
    """What the differences of the seeds say: mean, 95 % interval, smallest difference to be seen, and verdict."""
    count = len(differences)
    mean, error = float(np.mean(differences)), float(stats.sem(differences))
    low, high = (mean + side * stats.t.ppf(0.975, count - 1) * error for side in (-1, 1))
    smallest = (stats.t.ppf(0.975, count - 1) + stats.t.ppf(0.8, count - 1)) * error
    better, worse = (low > 0, high < 0) if higher_is_better else (high < 0, low > 0)
    verdict = "helps" if better else "harms" if worse else "not decided"
    return {"mean": mean, "low": float(low), "high": float(high), "smallest": float(smallest), "verdict": verdict}


def comparisons(runs: list[dict]) -> dict[str, dict[str, dict]]:
    """By pair of arms, as `AI_Score - random`, and by measure: `compare` of their runs."""
    found = {(one["arm"], one["seed"]): one["found"] for one in runs}
    seeds = sorted({one["seed"] for one in runs})
    return {
        f"{arm} - {other}": {
            name: compare([found[arm, seed][name] - found[other, seed][name] for seed in seeds], "loss" not in name)
            for name in runs[0]["found"]
        }
        for arm, other in itertools.permutations(ARMS, 2)
    }


def verdicts(compared: dict[str, dict[str, dict]]) -> dict[str, dict]:
    """For each hypothesis, the comparison that decides it, and the outcome."""
    found = {}
    for name, (arm, other, measure_, wanted) in HYPOTHESES.items():
        one = compared[f"{arm} - {other}"][measure_]
        outcome = {"not decided": "not decided", wanted: "confirmed"}.get(one["verdict"], "refuted")
        found[name] = {"pair": f"{arm} - {other}", "measure": measure_, **one, "outcome": outcome}
    return found


def draw(compared: dict[str, dict[str, dict]], path: Path) -> None:
    """Draw the differences of all arms to the random documents, with their intervals."""
    arms = [arm for arm in ARMS if arm != RANDOM]
    names = list(compared[f"{arms[0]} - {RANDOM}"])
    figure = Figure(figsize=(9, 0.6 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    for number, arm in enumerate(arms):
        one = [compared[f"{arm} - {RANDOM}"][name] for name in names]
        axes.errorbar(
            [each["mean"] for each in one],
            np.arange(len(names)) + (number - 2) * 0.15,
            xerr=[[each["mean"] - each["low"] for each in one], [each["high"] - each["mean"] for each in one]],
            fmt="o",
            markersize=4,
            capsize=2,
            label=arm,
        )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("difference to random documents of the same lengths, 95 % interval over seeds")
    axes.grid(axis="x", alpha=0.3)
    axes.margins(y=0.01)
    figure.legend(title="extra tokens by", loc="outside upper center", ncols=len(arms))
    figure.savefig(path, dpi=110)


def report(result: dict) -> None:
    """Write the result of all seeds so far, with its picture if there are two."""
    if len({one["seed"] for one in result["runs"]}) > 1:
        compared = comparisons(result["runs"])
        result = result | {"comparisons": compared, "hypotheses": verdicts(compared)}
        draw(compared, RESULT.with_suffix(".png"))
    write_json(RESULT, result)


def digest(*parts: bytes) -> str:
    """A short name for some bytes."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:8]


def prepare(model: str) -> Path:
    """Tokenize the pool and make probes, unless that is done; returns the folder of this pool."""
    pool = PILOT / "pool.jsonl"
    for path in (pool, PILOT / "held_out.jsonl", SCORES):
        if not path.exists():
            raise InputError(f"{path}: no such file; run experiments/pilot.py first")
    folder = WORK / digest(*(file_digest(path) for path in (pool, PILOT / "held_out.jsonl", SCORES)))
    if not (folder / "shards").exists():
        run("fineweb.py", f"--tokenizer {model} --input {pool} --domain_column domain --out_dir {folder}/shards")
    if not (folder / "probes.jsonl").exists():
        flags = f"--num_probes {MOST_TEXTS} --max_tokens {SEQ_LEN - 12} --out {folder}/probes.jsonl"
        run("generate_retrieval_probes.py", f"--tokenizer {model} {flags}")
    return folder


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model", default=MODEL, help="the model that is trained further: name or folder")
    parser.add_argument("--tokens", type=cli.positive_int, default=24_576, help="to train each model on")
    parser.add_argument("--seeds", type=cli.number(int, low=2), default=4, help="runs of each arm")
    parser.add_argument("--batch_size", type=cli.positive_int, default=1, help=f"sequences of {SEQ_LEN} tokens")
    parser.add_argument("--learning_rate", type=cli.positive_float, default=1e-4, help="the highest")
    parser.add_argument(
        "--measured",
        type=cli.positive_int,
        default=1_536,
        help="tokens that each model is measured on, of each domain and task",
    )
    add_dtype_flag(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    os.chdir(ROOT)
    folder = prepare(args.model)
    pool, measured = documents(folder), texts(args.model, folder)
    settings = {name: value for name, value in vars(args).items() if name != "seeds"}
    runs = folder / f"{args.tokens}-{digest(json.dumps(settings).encode())}"
    result = {**settings, "corpus": int(pool["num_tokens"].sum()), "machine": machine(), "selections": {}, "runs": []}
    for seed in range(args.seeds):
        result["selections"][seed] = select(pool, seed, folder)
        for arm in ARMS:
            read = reading(arm, seed, folder, args.tokens // (SEQ_LEN * args.batch_size) * args.batch_size)
            out_dir = runs / f"{plain(arm)}-{seed}"
            if not (out_dir / "measured.json").exists():
                model = train(arm, seed, args, folder, out_dir)
                write_json(out_dir / "measured.json", measure(model, measured, args.measured))
                remove(model)
            found = read_json(out_dir / "measured.json")
            result["runs"].append({"arm": arm, "seed": seed, "read": read, "found": found})
            print(f"{arm}, seed {seed}: {PRIMARY} {found[PRIMARY]:.4f}", flush=True)
        report(result)
    for name, one in read_json(RESULT)["hypotheses"].items():
        interval = f"{one['mean']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"
        print(f"{name}: {one['pair']}, {one['measure']}: {interval}, {one['outcome']}")
    print("next: python docs/fill_tables.py")


if __name__ == "__main__":
    cli.run(main)
