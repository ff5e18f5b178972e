"""Step 2: find the retrieval heads, the few attention heads that copy from the context.

    python compute_retrieval_heads.py --model hfl/chinese-llama-2-1.3b --probes data/probes.jsonl --top_pct 5

Reads   data/probes.jsonl
Writes  data/retrieval_heads.txt, a `layer,head` line for each retrieval head, best first:    18,6
        data/retrieval_heads.tsv, every head:    layer, head, retrieval_score, selected
        data/retrieval_heads.png, the same as a picture; data/retrieval_heads.json, the model and how well it did

The retrieval score of a head is the share of answer tokens that it copies: of each probe, then their mean. It copies a
token if, in the row that predicts the token, the position with its highest attention is in the answer's span in the
context and holds the same token. Each probe is one ordinary forward pass; no attention matrix is kept.
"""

import argparse
from pathlib import Path
from statistics import median

from common import cli, flags
from common.errors import InputError
from common.files import atomic, refuse_folder, refuse_inputs, sole_writer, write_json
from common.hub import DEFAULT_MODEL

MIN_ACCURACY = 0.5
# The share of the best 5 % of heads in all scores, on 24 probes of up to 768 tokens (experiments/templates.py).
CONCENTRATION = {"SmolLM2-135M": 0.77, "Gemma 3 270M": 0.89}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--model", "--base_model", default=DEFAULT_MODEL, help="model name or folder")
    parser.add_argument("--probes", type=Path, default=Path("data/probes.jsonl"), help="probes from step 1")
    parser.add_argument("--top_pct", type=cli.percentage, default=5, help="percent of all heads to take, rounded up")
    parser.add_argument(
        "--average",
        choices=["probes", "tokens"],
        default="probes",
        help="over probes: the mean of the share in each, as in the paper; over tokens: the share of all of them",
    )
    parser.add_argument("--out", type=Path, default=Path("data/retrieval_heads.txt"), help="where the heads go")
    parser.add_argument("--overwrite", action="store_true", help="replace the heads of another model at --out")
    flags.add_runtime_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.model.checkpoints import Runtime, load_model, load_model_tokenizer, require_tokenizer
    from common.model.heads import choose_heads, concentration, model_of, write_head_scores, write_heads
    from common.model.probes import read_probes
    from common.model.retrieval import encode_probes, score_heads
    from common.pages.pictures import heads_picture, save_picture
    from common.scoring.pair import require_scorable

    if args.out.suffix in (".tsv", ".png", ".json"):
        raise InputError(f"--out {args.out}: {args.out.suffix} is the name of another output; end it with .txt")
    refuse_folder(args.out)
    table, picture, record = (args.out.with_suffix(suffix) for suffix in (".tsv", ".png", ".json"))
    refuse_inputs([args.out, table, picture, record], [args.probes])
    if not args.overwrite and (before := model_of(args.out)) not in (None, args.model):
        raise InputError(f"--out {args.out}: the heads of {before}; give another output, or --overwrite")
    probes, runtime = read_probes(args.probes), cli.options(Runtime, args)
    tokenizer = load_model_tokenizer(args.model, runtime)
    model = load_model(args.model, runtime)
    require_tokenizer(model, tokenizer)
    require_scorable(model)
    encoded = encode_probes(probes, tokenizer, model)
    with sole_writer(args.out):
        with cli.progress(sum(len(probe.input_ids) for probe in encoded), "finding heads") as bar:
            scores, accuracy = score_heads(model, encoded, bar.update, args.average)
        heads = choose_heads(scores, args.top_pct)
        save_picture(heads_picture(scores, heads), picture)
        with atomic(args.out) as tmp, atomic(table) as tmp_scores:
            write_heads(tmp, heads)
            write_head_scores(tmp_scores, scores, heads)
        template = " and ".join(sorted({probe.template for probe in probes}))
        lengths = [len(probe.input_ids) for probe in encoded]
        probed = {
            "probes": str(args.probes),
            "num_probes": len(probes),
            "template": template,
            "probe_tokens": {"median": median(lengths), "shortest": min(lengths), "longest": max(lengths)},
            "probe_accuracy": accuracy,
        }
        chosen = {"average": args.average, "top_pct": args.top_pct, "concentration": concentration(scores)}
        write_json(record, {"model": args.model, **probed, **chosen})
    print(f"the model predicts {accuracy:.1%} of the answers' tokens ({len(probes)} {template} probes)")
    if accuracy < MIN_ACCURACY:
        print(
            f"warning: under {MIN_ACCURACY:.0%} the scores mean little, because this model cannot do the task: make "
            "shorter probes (generate_retrieval_probes.py --max_tokens), use sentences it knows (--corpus), or a "
            "larger model"
        )
    tried = ", ".join(f"{name} {share:.0%}" for name, share in CONCENTRATION.items())
    print(f"the best 5 % of heads have {chosen['concentration']:.0%} of the sum of all scores (models tried: {tried})")
    best = ", ".join(f"{head} ({scores[head]:.2f})" for head in heads[:5])
    print(f"wrote {len(heads)} of {scores.size} heads to {args.out}, best first: {best}")
    print(f"wrote every head's score to {table}, and as a picture to {picture}")
    print(f"next: python make_reference_model.py --base_model {args.model} --retrieval_heads {args.out}")


if __name__ == "__main__":
    cli.run(main)
