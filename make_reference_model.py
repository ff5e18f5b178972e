"""Step 3: copy the base model with its retrieval heads masked.

    python make_reference_model.py --base_model hfl/chinese-llama-2-1.3b --retrieval_heads data/retrieval_heads.txt
    python make_reference_model.py … --probes data/probes.jsonl        with the causal check

Reads   data/retrieval_heads.txt
Writes  reference-model/, an ordinary checkpoint that plain AutoModelForCausalLM loads, with its tokenizer, in the
        base's precision; attention_influence.json in it records base, mask and heads, causal_check.json the check

--mask uniform makes a masked head attend equally to all positions it may see; zero makes it contribute nothing.
--probes measures the effect: the share of the answers' tokens that the base predicts, that the masked copy predicts,
and that the base predicts with as many random other heads masked. The copy should predict far fewer, most random draws
hardly fewer. Some draws do fall, because retrieval also needs a few heads that do not copy themselves.
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path
from statistics import median

from common import cli, flags
from common.errors import InputError
from common.files import atomic, refuse_folder, sole_writer, write_json
from common.hub import DEFAULT_MODEL


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "--base_model", "--model", help="model name or folder (default: the one whose heads step 2 found)"
    )
    parser.add_argument(
        "--retrieval_heads", type=Path, default=Path("data/retrieval_heads.txt"), help="heads from step 2"
    )
    parser.add_argument(
        "--mask",
        choices=["uniform", "zero"],
        default="uniform",
        help="uniform: a masked head attends equally to all positions; zero: it contributes nothing",
    )
    parser.add_argument("--probes", type=Path, help="probes for the causal check (default: no check)")
    parser.add_argument("--max_probes", type=cli.positive_int, default=32, help="most probes in the check")
    parser.add_argument("--draws", type=cli.positive_int, default=9, help="how often the check draws random heads")
    parser.add_argument("--seed", type=int, default=0, help="for the random heads of the check")
    parser.add_argument("--out", type=Path, default=Path("reference-model"), help="where the checkpoint goes")
    parser.add_argument("--overwrite", action="store_true", help="replace the masked copy of another model at --out")
    flags.add_runtime_flags(parser)
    return parser.parse_args(argv)


def check_out(base_model: str, heads_path: Path, out: Path, overwrite: bool) -> None:
    """Raise InputError if `out` would replace the base model, an input, another model's copy or another's folder."""
    from common.model.reference import RECORD_NAME, base_of

    if out.exists() and Path(base_model).exists() and out.samefile(base_model):
        raise InputError(f"--out {out}: this is the base model itself; give another folder")
    refuse_folder(out, RECORD_NAME)
    for path in (Path(base_model), heads_path):
        if out.resolve() in path.resolve().parents:
            raise InputError(f"--out {out}: {path} is in this folder, which is replaced; give another folder")
    if not overwrite and (before := base_of(out)) not in (None, base_model):
        raise InputError(f"--out {out}: a masked copy of {before}; give another folder, or --overwrite")


def causal_check(args: argparse.Namespace, masking, probes: list) -> dict:
    """Probe token accuracy of the base, of the masked copy, and of the base with random other heads masked."""
    import numpy as np

    from common.model.attention import mask_heads_at_run_time
    from common.model.checkpoints import Runtime, load_model, load_model_tokenizer
    from common.model.masking import head_shape, run_time_masks
    from common.model.retrieval import encode_probes, probe_accuracy

    runtime = cli.options(Runtime, args)
    base = load_model(args.base_model, runtime)
    encoded = encode_probes(probes, load_model_tokenizer(args.base_model, runtime), base)
    others = sorted(set(np.ndindex(head_shape(base))) - set(masking.heads))
    rng = random.Random(args.seed)
    num_tokens = sum(len(probe.input_ids) for probe in encoded)
    with cli.progress((2 + args.draws) * num_tokens, "causal check") as bar:
        base_accuracy = probe_accuracy(base, encoded, bar.update)
        masked_accuracy = probe_accuracy(load_model(str(args.out), runtime), encoded, bar.update)
        random_accuracies = []
        for _draw in range(args.draws):
            drawn = rng.sample(others, min(len(masking.heads), len(others)))
            with mask_heads_at_run_time(base, run_time_masks(drawn, masking.kind)):
                random_accuracies.append(probe_accuracy(base, encoded, bar.update))
    random_accuracies.sort()
    return {"probes": len(probes), "base": base_accuracy, "masked": masked_accuracy, "random": random_accuracies}


def show_check(check: dict, num_heads: int) -> None:
    """Print the result of `causal_check`."""
    each = " ".join(f"{accuracy:.3f}" for accuracy in check["random"])
    draws = f"median of {len(check['random'])} draws: {each}"
    print(f"probe token accuracy over {check['probes']} probes:")
    print(f"  {check['base']:.3f}  base model")
    print(f"  {check['masked']:.3f}  its {num_heads} retrieval heads masked")
    print(f"  {median(check['random']):.3f}  as many random other heads masked, {draws}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.model.checkpoints import Runtime, load_model, load_model_tokenizer, require_tokenizer, save_checkpoint
    from common.model.heads import model_of, read_heads
    from common.model.masking import Masking, head_shape, mask_heads
    from common.model.probes import read_probes
    from common.model.reference import CHECK_NAME, RECORD_NAME, write_record
    from common.model.retrieval import encode_probes
    from common.scoring.pair import require_scorable

    found_in = model_of(args.retrieval_heads)
    args.base_model = args.base_model or found_in or DEFAULT_MODEL
    if found_in not in (None, args.base_model):
        cli.warn(f"{args.retrieval_heads}: the heads of {found_in}, not of {args.base_model}")
    probes = read_probes(args.probes)[: args.max_probes] if args.probes else []
    with sole_writer(args.out):
        check_out(args.base_model, args.retrieval_heads, args.out, args.overwrite)
        runtime = cli.options(Runtime, args)
        tokenizer = load_model_tokenizer(args.base_model, runtime)
        model = load_model(args.base_model, replace(runtime, device="cpu", dtype="checkpoint"))
        require_tokenizer(model, tokenizer)
        require_scorable(model)
        masking = Masking(args.mask, read_heads(args.retrieval_heads, head_shape(model)))
        encode_probes(probes, tokenizer, model)  # so that a wrong probe is reported before the work
        mask_heads(model, masking.heads, masking.kind)
        with atomic(args.out, RECORD_NAME) as tmp:
            save_checkpoint(model, tokenizer, tmp)
            write_record(tmp, args.base_model, masking)
        print(f"wrote {args.base_model} with {len(masking.heads)} heads masked ({masking.kind}) to {args.out}/")
        if probes:
            check = causal_check(args, masking, probes)
            write_json(args.out / CHECK_NAME, check)
            show_check(check, len(masking.heads))
    print("next: python fineweb.py --version sample --tokenizer", args.base_model)


if __name__ == "__main__":
    cli.run(main)
