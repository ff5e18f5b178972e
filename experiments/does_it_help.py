"""Does the selection help? SmolLM2-135M trained further on a corpus plus extra tokens, six kinds of extra tokens.

    python experiments/does_it_help.py                          75 minutes on two cores with bfloat16
    python experiments/does_it_help.py --tokens 1_000_000 --batch_size 16 --measured 4      larger; not tried on a GPU

Needs   experiments/pilot.py done, pip install -r requirements/eval.txt, --no-deps -r requirements/tasks.txt
Writes  data/does_it_help/: shards, samples, probes, and measured.json of each run, the mean loss of each text; the same
        command continues
        experiments/results/does_it_help.json and .png; python docs/fill_tables.py puts the tables into docs/results.md

The mix is the paper's: 76.5 % of the tokens from the corpus, 23.5 % extra. The corpus is the pool that pilot.py scored.
The extra tokens of a run are a random sample, drawn by the seed, from a fifth of the tokens of each domain of it. Of
each domain the sample has its share of the pool's tokens, exactly, so all arms read as many tokens of each domain:

AI_Score           the highest AI_Score
AI_Score_novel     the highest AI_Score_novel, which leaves out tokens that copy (n = 5)
random             for each document in the sample of AI_Score, one of the whole domain of nearly the same length, cut
                   to as many tokens
lowest L_base      the lowest loss of the base model, a perplexity filter
lowest AI_Score    the lowest AI_Score
corpus             nothing extra: all tokens from the corpus

These are selections by the plain columns, without the guards of step 6 against repetition and copies; whether the
guarded selection helps is not tested. The scorer and the model that is trained are the same, an instruct model; whether
a weak model selects well for a strong one is not tested.

All arms have the same number of tokens and steps. For one seed, all arms start from the same weights, and those with
extra tokens read the same tokens of the corpus at the same steps. No token of the corpus is read twice as such, and no
extra one; a document can be read twice, once as a part of the corpus.

Measured on each model, and on the model before training, all losses in nats per token, as means of texts: 10 held-out
documents of each domain, cut to 512 tokens, no piece of the same file as one in the pool, and the mean of the domains;
worked solutions of GSM8K and MATH; the last word of LAMBADA; the first accepted answer of SQuAD and DROP, after passage
and question; the answers of probes, and the share of their tokens that are the model's first choice; and how much the
loss falls from token 50 to token 500 of held-out documents. Questions are at most 200 tokens long with their answers.
"What needs the context" is the mean of the losses of LAMBADA, SQuAD, DROP and the probes.

Written before the run that is reported; 3 seeds, the tokens and the rate were fixed then:

H1  AI_Score has a lower mean held-out loss than random.                                    The claim; primary
H2  AI_Score has a lower mean held-out loss than lowest L_base.                             More than perplexity
H3  AI_Score_novel has a lower mean held-out loss than AI_Score.                            Copies do harm
H4  Lowest AI_Score has a higher mean held-out loss than random.                            The other end
H5  AI_Score is better than random at what needs the context (their mean loss), and falls more from token 50 to 500.

Decision: for each pair of arms and measure, the differences of the runs of one seed are a sample; their mean has a 95 %
interval by Student's t. A second 95 % interval is a bootstrap over texts, within each domain or task, of the difference
averaged over seeds. An arm "helps" or "harms" against the other only if both intervals leave out 0, on the same side;
otherwise it is "not decided". A hypothesis is confirmed if its arm helps (in H4: harms), refuted if it does the
opposite, else not decided. H5 is confirmed only if both its parts are. Only H1 carries the 5 %: H2 to H5 are not
corrected for being several, and all other differences are for orientation.

The rule and the design were sharpened after a first run that was stopped after 9 of 18 models, whose losses lay within
0.005 nats of each other for a seed: it had one interval, three held-out documents of a domain, and domains by chance.

The smallest difference that the design could have seen is the one that the test over seeds alone finds in four of five
repetitions, by the noncentral t distribution. H4 cannot be told from length, because documents of low AI_Score are
shorter than the random ones, nor H2 and H3, whose arms have other lengths too. H3 and the loss on GSM8K cannot be told
from the shares of word problems among the maths, where the corpus has both. The intervals speak of other seeds and of
other texts of the same kinds, not of other corpora or models.
"""

import argparse
import gc
import hashlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import arms
import measuring
import numpy as np
from arms import ARMS, RANDOM
from matplotlib.figure import Figure
from measure import machine
from measuring import CONTEXT, GAIN, PRIMARY, SEQ_LEN, Found
from pilot import RESULT as SCORES
from pilot import WORK as PILOT
from pilot import add_dtype_flag
from run_script import RESULTS, ROOT, run
from scipy import optimize, stats

import pretrain
from common import cli
from common.errors import InputError
from common.files import as_path, file_digest, read_json, remove, write_json
from common.text.tokenization import TextTokenizer, load_tokenizer

WORK = ROOT / "data/does_it_help"
MODEL = "data/SmolLM2-135M-Instruct"
RESULT = RESULTS / "does_it_help.json"
RESAMPLES = 2000
# The hypotheses: the arm, the other, the measure, and what the arm should do against the other.
HYPOTHESES = {
    "H1": ("AI_Score", RANDOM, PRIMARY, "helps"),
    "H2": ("AI_Score", "lowest L_base", PRIMARY, "helps"),
    "H3": ("AI_Score_novel", "AI_Score", PRIMARY, "helps"),
    "H4": ("lowest AI_Score", RANDOM, PRIMARY, "harms"),
    "H5, mean loss": ("AI_Score", RANDOM, CONTEXT, "helps"),
    "H5, fall": ("AI_Score", RANDOM, GAIN, "helps"),
}


def plain(arm: str) -> str:
    """An arm's name in that of a file."""
    return arm.replace(" ", "_")


def selection(arm: str, seed: int, folder: Path) -> Path:
    """The folder with an arm's extra documents."""
    return folder / f"{plain(arm)}-{seed}"


def train(arm: str, seed: int, args: argparse.Namespace, folder: Path, out_dir: Path) -> Path:
    """Train one model; returns its folder."""
    mix = " ".join(f"{name}={share}" for name, share in arms.shares(arm).items())
    flags = (
        f"--model {args.model} --tokenizer {args.model} --data {folder}/shards/*.bin --mix {mix} "
        f"--selected {selection(arm, seed, out_dir.parent)}/*.bin --max_tokens {args.tokens} --seq_len {SEQ_LEN} "
        f"--batch_size {args.batch_size} --device_batch_size {args.batch_size} --dtype {args.dtype} --num_workers 0 "
        f"--learning_rate {args.learning_rate} --warmup_pct 10 --decay_pct 25 --log_every 10 --seed {seed} "
        f"--trainer save_strategy=no --out_dir {out_dir}"
    )
    print(f"$ python pretrain.py {flags}", flush=True)
    pretrain.main(flags.split())  # in this process, because importing torch can take as long as training
    gc.collect()
    return out_dir / "model"


def smallest(count: int) -> float:
    """The true mean, in standard errors, that a two-sided t test at 5 % finds with a power of 80 %."""
    edge, freedom = stats.t.ppf(0.975, count - 1), count - 1
    return optimize.brentq(lambda mean: stats.nct.sf(edge, freedom, mean) - 0.8, 0, 10 * edge)


def over_texts(differences: list[np.ndarray]) -> tuple[float, float]:
    """The 95 % interval, by bootstrap within each group of texts, of the mean of the groups' means."""
    found = stats.bootstrap(
        differences,
        lambda *groups, axis: sum(group.mean(axis=axis) for group in groups) / len(groups),
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def compare(differences: list[float], of_texts: list[np.ndarray], higher_is_better: bool) -> dict:
    """What differences say: mean, 95 % intervals over seeds and texts, smallest to be seen, and verdict.

    Args:
        differences: of each seed.
        of_texts: by group of texts, of each text, averaged over seeds.
    """
    count = len(differences)
    mean, error = float(np.mean(differences)), float(stats.sem(differences))
    low, high = (mean + side * stats.t.ppf(0.975, count - 1) * error for side in (-1, 1))
    texts = over_texts(of_texts)
    above, below = min(low, *texts) > 0, max(high, *texts) < 0
    better, worse = (above, below) if higher_is_better else (below, above)
    verdict = "helps" if better else "harms" if worse else "not decided"
    seen = smallest(count) * error
    return {
        "mean": mean,
        "low": float(low),
        "high": float(high),
        "texts": texts,
        "smallest": float(seen),
        "verdict": verdict,
    }


def comparisons(found: dict[tuple[str, int], Found]) -> dict[str, dict[str, dict]]:
    """By pair of arms, as `AI_Score - random`, and by measure: `compare` of the runs, given by arm and seed."""
    seeds = sorted({seed for _, seed in found})
    groups = measuring.groups(next(iter(found.values())))
    pairs = dict.fromkeys([(arm, RANDOM) for arm in ARMS if arm != RANDOM])
    pairs |= dict.fromkeys((arm, other) for arm, other, *_ in HYPOTHESES.values())
    compared = {}
    for arm, other in pairs:
        runs = [(found[arm, seed], found[other, seed]) for seed in seeds]
        means = [(measuring.means(ours), measuring.means(theirs)) for ours, theirs in runs]
        texts = {
            name: np.mean([np.subtract(ours[name], theirs[name]) for ours, theirs in runs], axis=0)
            for name in runs[0][0]
        }
        compared[f"{arm} - {other}"] = {
            name: compare(
                [ours[name] - theirs[name] for ours, theirs in means],
                [texts[group] for group in of_name],
                "loss" not in name,
            )
            for name, of_name in groups.items()
        }
    return compared


def verdicts(compared: dict[str, dict[str, dict]]) -> dict[str, dict]:
    """For each hypothesis, the comparison that decides it, and the outcome."""
    found = {}
    for name, (arm, other, measure, wanted) in HYPOTHESES.items():
        one = compared[f"{arm} - {other}"][measure]
        outcome = {"not decided": "not decided", wanted: "confirmed"}.get(one["verdict"], "refuted")
        found[name] = {"pair": f"{arm} - {other}", "measure": measure, **one, "outcome": outcome}
    return found


def draw(compared: dict[str, dict[str, dict]], path: Path) -> None:
    """Draw the differences of all arms to the random documents, with their intervals."""
    shown = [arm for arm in ARMS if arm != RANDOM]
    names = list(compared[f"{shown[0]} - {RANDOM}"])
    figure = Figure(figsize=(9, 0.6 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    for number, arm in enumerate(shown):
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
    figure.legend(title="extra tokens by", loc="outside upper center", ncols=len(shown))
    figure.savefig(path, dpi=110)


def report(result: dict, found: dict[tuple[str, int], Found], path: Path) -> None:
    """Write the result of all seeds so far, with its picture; not before there are two."""
    if len({seed for _, seed in found}) < 2:
        return
    compared = comparisons(found)
    runs = [{"arm": arm, "seed": seed, "found": measuring.means(one)} for (arm, seed), one in found.items()]
    draw(compared, path.with_suffix(".png"))
    write_json(path, {**result, "runs": runs, "comparisons": compared, "hypotheses": verdicts(compared)})


def digest(*parts: bytes) -> str:
    """A short name for some bytes."""
    return hashlib.sha256(b"".join(parts)).hexdigest()[:8]


def prepare(args: argparse.Namespace, tokenizer: TextTokenizer) -> Path:
    """Tokenize the pool and make probes, unless that is done; returns the folder of this pool."""
    pool, held_out = args.pilot / "pool.jsonl", args.pilot / "held_out.jsonl"
    for path in (pool, held_out, args.scores):
        if not path.exists():
            raise InputError(f"{path}: no such file; run experiments/pilot.py first")
    known = digest(*(file_digest(path) for path in (pool, held_out, args.scores)), tokenizer.fingerprint.encode())
    folder = args.work / known
    run("fineweb.py", f"--tokenizer {args.model} --input {pool} --domain_column domain --out_dir {folder}/shards")
    if not (folder / "probes.jsonl").exists():
        most = measuring.MOST * measuring.PROBES
        flags = f"--num_probes {most} --max_tokens {SEQ_LEN - 12} --out {folder}/probes.jsonl"
        run("generate_retrieval_probes.py", f"--tokenizer {args.model} {flags}")
    return folder


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model", default=MODEL, help="the model that is trained further: name or folder")
    parser.add_argument("--tokens", type=cli.positive_int, default=22_016, help="to train each model on")
    parser.add_argument("--seeds", type=cli.number(int, low=2), default=3, help="runs of each arm")
    parser.add_argument("--batch_size", type=cli.positive_int, default=1, help=f"sequences of {SEQ_LEN} tokens")
    parser.add_argument("--learning_rate", type=cli.positive_float, default=1e-4, help="the highest")
    parser.add_argument(
        "--measured", type=cli.number(int, low=1, high=measuring.MOST), default=1, help="times as many texts"
    )
    parser.add_argument("--pilot", type=as_path, default=PILOT, help="the folder that pilot.py filled (--work)")
    parser.add_argument("--scores", type=as_path, default=SCORES, help="the table that pilot.py wrote (--out)")
    parser.add_argument("--work", type=as_path, default=WORK, help="folder of shards and runs")
    parser.add_argument("--out", type=as_path, default=RESULT, help="the result, .json; a picture next to it")
    add_dtype_flag(parser)
    return parser.parse_args(argv)


def trained(arm: str, seed: int, args: argparse.Namespace, folder: Path, out_dir: Path, texts: dict) -> Found:
    """The values of one model, which is trained and measured unless that is done."""
    path = out_dir / "measured.json"
    if not path.exists():
        write_json(path, measuring.measure(train(arm, seed, args, folder, out_dir), texts))
    remove(out_dir / "model")
    return read_json(path)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    os.chdir(ROOT)
    tokenizer = load_tokenizer(args.model)
    folder = prepare(args, tokenizer)
    pool = arms.documents(folder, args.scores)
    texts = measuring.first_of(measuring.texts(args.pilot / "held_out.jsonl", folder, tokenizer), args.measured)
    settings = {name: getattr(args, name) for name in ("model", "tokens", "batch_size", "learning_rate", "dtype")}
    weights = (file_digest(path) for path in sorted(Path(args.model).glob("*.safetensors")))
    settings |= {"weights": digest(*weights), "measured": measuring.sizes(texts)}
    runs = folder / f"{args.tokens}-{digest(json.dumps(settings).encode())}"
    before = runs / "before.json"
    if not before.exists():
        write_json(before, measuring.measure(args.model, texts))
    before = measuring.means(read_json(before))
    result = {**settings, "corpus": int(pool["num_tokens"].sum()), "machine": machine(), "before": before, "read": []}
    sequences, found = args.tokens // (SEQ_LEN * args.batch_size) * args.batch_size, {}
    read = {arm: arms.drawn(arm, pool, SEQ_LEN, sequences) for arm in ARMS}
    for seed in range(args.seeds):
        samples = arms.samples(pool, read["AI_Score"]["selected"], seed)
        for arm in ARMS:
            of_corpus = arms.read_by_domain(pool, read[arm]["baseline"], seed)
            extra = arms.facts(pool, samples[arm]) if arm in samples else None
            result["read"].append({"arm": arm, "seed": seed, "corpus": of_corpus, "extra": extra})
            if extra:
                arms.write(pool, samples[arm], selection(arm, seed, runs), tokenizer)
            found[arm, seed] = trained(arm, seed, args, folder, runs / f"{plain(arm)}-{seed}-run", texts)
            print(f"{arm}, seed {seed}: {PRIMARY} {measuring.means(found[arm, seed])[PRIMARY]:.4f}", flush=True)
        report(result, found, args.out)
    for name, one in read_json(args.out)["hypotheses"].items():
        interval = f"{one['mean']:+.4f} ({one['low']:+.4f} to {one['high']:+.4f})"
        print(f"{name}: {one['pair']}, {one['measure']}: {interval}, {one['outcome']}")
    print("next: python docs/fill_tables.py")


if __name__ == "__main__":
    cli.run(main)
