"""Step 2: find the retrieval heads, the few attention heads that copy from the context.

    python compute_retrieval_heads.py --model hfl/chinese-llama-2-1.3b --probes data/probes.jsonl --top_pct 5

Reads   data/probes.jsonl
Writes  data/retrieval_heads.txt, a `layer,head` line for each retrieval head, best first:    18,6
        data/retrieval_heads.tsv, every head:    layer, head, retrieval_score, selected
        data/retrieval_heads.png, the same as a picture

A head's retrieval score is the share of answer tokens for which its most-attended position, in the row that predicts
the token, lies in the answer's span in the context and holds the same token. Each probe is one ordinary forward pass;
no attention matrix is kept.
"""

from pathlib import Path

from common import cli
from common.errors import InputError
from common.files import atomic, refuse_folder, refuse_inputs, sole_writer
from common.flags import DEFAULT_MODEL, Runtime, add_runtime_flags, runtime
from common.model.checkpoints import check_tokenizer_fits, load_model, load_model_tokenizer
from common.model.heads import choose_heads, encode_probes, score_heads, write_heads, write_scores
from common.model.probes import read_probes
from common.pages.pictures import heads_picture, save

MIN_ACCURACY = 0.5


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model name or folder")
    parser.add_argument("--probes", type=Path, default=Path("data/probes.jsonl"), help="probes from step 1")
    parser.add_argument("--top_pct", type=cli.percentage, default=5, help="percent of all heads to take, rounded up")
    parser.add_argument("--out", type=Path, default=Path("data/retrieval_heads.txt"), help="where the heads go")
    add_runtime_flags(parser)
    return parser.parse_args(argv)


def find_heads(model_name: str, probes_path: Path, top_pct: float, out: Path, runtime: Runtime) -> None:
    """Score every head on the probes, choose the best and write both."""
    if out.suffix in (".tsv", ".png"):
        raise InputError(f"--out {out}: the {out.suffix} beside it is for every head's score; end it with .txt")
    refuse_folder(out)
    table, picture = out.with_suffix(".tsv"), out.with_suffix(".png")
    refuse_inputs([out, table, picture], [probes_path])
    probes = read_probes(probes_path)
    tokenizer = load_model_tokenizer(model_name, runtime)
    model = load_model(model_name, runtime)
    check_tokenizer_fits(tokenizer, model, model_name)
    encoded = encode_probes(probes, tokenizer, model)
    with sole_writer(out):
        with cli.progress(sum(len(probe.input_ids) for probe in encoded), "finding heads") as bar:
            scores, accuracy = score_heads(model, encoded, bar.update)
        heads = choose_heads(scores, top_pct)
        save(heads_picture(scores, heads), picture)
        with atomic(out) as tmp, atomic(table) as tmp_scores:
            write_heads(tmp, heads)
            write_scores(tmp_scores, scores, heads)
    print(f"the model predicts {accuracy:.1%} of the answers' tokens ({len(probes)} probes)")
    if accuracy < MIN_ACCURACY:
        print(
            f"warning: under {MIN_ACCURACY:.0%} the scores mean little, this model cannot do the task: make shorter "
            "probes (generate_retrieval_probes.py --max_tokens), use sentences it knows (--corpus), or a larger model"
        )
    best = ", ".join(f"{layer},{head} ({scores[layer, head]:.2f})" for layer, head in heads[:5])
    print(f"wrote {len(heads)} of {scores.size} heads to {out}, best first: {best}")
    print(f"wrote every head's score to {table}, and as a picture to {picture}")
    print(f"next: python make_reference_model.py --base_model {model_name} --retrieval_heads {out}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    find_heads(args.model, args.probes, args.top_pct, args.out, runtime(args))


if __name__ == "__main__":
    cli.run(main)
