"""Step 3: copy the base model with its retrieval heads masked.

    python make_reference_model.py --base_model hfl/chinese-llama-2-1.3b --retrieval_heads data/retrieval_heads.txt
    python make_reference_model.py … --probes data/probes.jsonl        with the causal check

Reads   data/retrieval_heads.txt
Writes  reference-model/, an ordinary checkpoint that plain AutoModelForCausalLM loads, tokenizer included, in the
        base's precision; attention_influence.json in it records base, mask and heads, causal_check.json the check

--mask uniform makes a masked head attend equally to everything it may see; zero makes it contribute nothing.
--probes measures what the masking does: the share of the answers' tokens that the base predicts, the masked copy, and
the base with as many random other heads masked. The copy should fall far, most random draws hardly. Some draws do fall:
retrieval also leans on a few heads that do not copy themselves.
"""

import random
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from common import cli
from common.errors import InputError
from common.files import atomic, refuse_folder, sole_writer, write_json
from common.flags import DEFAULT_MODEL, Runtime, add_runtime_flags, runtime
from common.model.attention import mask_heads_at_run_time
from common.model.checkpoints import check_tokenizer_fits, load_model, load_model_tokenizer, save_checkpoint
from common.model.heads import Head, encode_probes, head_shape, probe_accuracy, read_heads
from common.model.masking import MASKS, mask_heads, run_time_masks
from common.model.probes import Probe, read_probes
from common.scoring.pair import RECORD_NAME, write_record

CHECK_NAME = "causal_check.json"


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--base_model", default=DEFAULT_MODEL, help="model name or folder")
    parser.add_argument(
        "--retrieval_heads", type=Path, default=Path("data/retrieval_heads.txt"), help="heads from step 2"
    )
    parser.add_argument("--mask", choices=MASKS, default="uniform", help="what a masked head does")
    parser.add_argument("--probes", type=Path, help="probes for the causal check (default: no check)")
    parser.add_argument("--max_probes", type=cli.positive_int, default=32, help="take the first so many for the check")
    parser.add_argument("--draws", type=cli.positive_int, default=9, help="how often random heads are drawn for it")
    parser.add_argument("--seed", type=int, default=0, help="for the random heads of the check")
    parser.add_argument("--out", type=Path, default=Path("reference-model"), help="where the checkpoint goes")
    add_runtime_flags(parser)
    return parser.parse_args(argv)


def make_reference(
    base_model: str, heads_path: Path, kind: str, out: Path, probes: list[Probe], runtime: Runtime
) -> list[Head]:
    """Mask the heads in a copy of the base, in the base's own dtype, and save it; returns the heads."""
    if out.exists() and Path(base_model).exists() and out.samefile(base_model):
        raise InputError(f"--out {out}: this is the base model itself; give another folder")
    refuse_folder(out, RECORD_NAME)
    for path in (Path(base_model), heads_path):
        if out.resolve() in path.resolve().parents:
            raise InputError(f"--out {out}: {path} lies in it, and the folder is replaced; give another folder")
    tokenizer = load_model_tokenizer(base_model, runtime)
    model = load_model(base_model, replace(runtime, device="cpu", dtype="checkpoint"))
    check_tokenizer_fits(tokenizer, model, base_model)
    heads = read_heads(heads_path, head_shape(model))
    encode_probes(probes, tokenizer, model)  # which cannot fail then behind the work
    mask_heads(model, heads, kind)
    with atomic(out, RECORD_NAME) as tmp:
        save_checkpoint(model, tokenizer, tmp)
        write_record(tmp, base_model, kind, heads)
    print(f"wrote {base_model} with {len(heads)} heads masked ({kind}) to {out}/")
    return heads


def causal_check(
    base_model: str,
    reference: Path,
    heads: list[Head],
    kind: str,
    probes: list[Probe],
    draws: int,
    seed: int,
    runtime: Runtime,
) -> None:
    """Print probe token accuracy of the base, of the masked copy, and of the base with random other heads masked.

    The same goes to causal_check.json in the reference's folder.
    """
    tokenizer = load_model_tokenizer(base_model, runtime)
    base = load_model(base_model, runtime)
    encoded = encode_probes(probes, tokenizer, base)
    others = sorted(set(np.ndindex(head_shape(base))) - set(heads))
    rng = random.Random(seed)
    num_tokens = sum(len(probe.input_ids) for probe in encoded)
    with cli.progress((2 + draws) * num_tokens, "causal check") as bar:
        base_accuracy = probe_accuracy(base, encoded, bar.update)
        masked_accuracy = probe_accuracy(load_model(str(reference), runtime), encoded, bar.update)
        random_accuracies = []
        for _draw in range(draws):
            drawn = rng.sample(others, min(len(heads), len(others)))
            with mask_heads_at_run_time(base, run_time_masks(drawn, kind, base)):
                random_accuracies.append(probe_accuracy(base, encoded, bar.update))
    random_accuracies.sort()
    result = {"probes": len(probes), "base": base_accuracy, "masked": masked_accuracy, "random": random_accuracies}
    write_json(reference / CHECK_NAME, result)
    each = " ".join(f"{accuracy:.3f}" for accuracy in random_accuracies)
    print(f"probe token accuracy over {len(probes)} probes:")
    print(f"  {base_accuracy:.3f}  base model")
    print(f"  {masked_accuracy:.3f}  its {len(heads)} retrieval heads masked")
    print(f"  {median(random_accuracies):.3f}  as many random other heads masked, median of {draws} draws: {each}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    probes = read_probes(args.probes)[: args.max_probes] if args.probes else []
    with sole_writer(args.out):
        heads = make_reference(args.base_model, args.retrieval_heads, args.mask, args.out, probes, runtime(args))
        if probes:
            causal_check(
                args.base_model,
                args.out,
                heads,
                args.mask,
                probes,
                args.draws,
                args.seed,
                runtime(args),
            )
    print("next: python fineweb.py --version sample --tokenizer", args.base_model)


if __name__ == "__main__":
    cli.run(main)
