"""Step 8: evaluate models side by side with lm-evaluation-harness.

    python evaluate.py --models data/SmolLM2-135M-Instruct reference-model --tasks 'probes,local_*' --limit 200
    python evaluate.py --models data/pretrained/model --tasks gsm8k,mmlu,hellaswag      the harness's own, from the hub

Reads   models by name or folder; tasks of the harness, or from files (common/evaluation/tasks/): local_arc_easy,
        local_arc_challenge, local_drop, local_gsm8k, local_hellaswag, local_labels, local_lambada, local_mmlu,
        local_piqa, local_squad, and probes, the in-context retrieval of step 1's data/probes.jsonl
Writes  data/evaluation.tsv: task, metric, model, value, stderr, num_documents
        data/evaluation.json: all results, with the settings; the same command continues a stopped run at the next task

The table on the screen shows every metric with its standard error. `local_*` needs requirements/tasks.txt.
"""

import argparse
from functools import partial
from pathlib import Path

from common import cli, flags
from common.errors import InputError
from common.files import atomic, file_digest, refuse_inputs, sole_writer


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--models", nargs="+", required=True, help="names or folders")
    parser.add_argument("--tasks", default="probes,local_*", help="names with commas between them; * matches anything")
    parser.add_argument("--limit", type=cli.positive_int, help="most documents of each task (default: all)")
    parser.add_argument("--num_fewshot", type=cli.non_negative_int, help="examples in the prompt (default: the task's)")
    parser.add_argument("--batch_size", type=cli.positive_int, default=8, help="documents in a forward pass")
    parser.add_argument(
        "--probes", type=Path, default=Path("data/probes.jsonl"), help="the file that the task `probes` reads"
    )
    flags.add_runtime_flags(parser)
    parser.add_argument("--out", type=Path, default=Path("data/evaluation.tsv"), help="the table; .json next to it")
    parser.add_argument("--overwrite", action="store_true", help="replace another run's results at --out")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        from common.evaluation import harness
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        raise InputError("lm-evaluation-harness is not installed; pip install -r requirements/eval.txt") from None
    import transformers

    from common.evaluation.comparison import evaluate, open_record, show_table, table_of
    from common.model.checkpoints import Runtime
    from common.model.probes import read_probes

    path = args.out.with_suffix(".json")
    refuse_inputs([args.out, path], [args.probes])
    asked = harness.Harness(args.probes, args.limit, args.num_fewshot)
    tasks, models = asked.tasks(args.tasks), list(dict.fromkeys(args.models))
    if "probes" in tasks:
        read_probes(args.probes)  # checks them
    settings = {
        "limit": args.limit,
        "num_fewshot": args.num_fewshot,
        "dtype": args.dtype,
        "probes": file_digest(args.probes).hex()[:16] if "probes" in tasks else None,
        "tasks": harness.tasks_digest(),
        "lm_eval": harness.VERSION,
        "transformers": transformers.__version__,
    }
    with sole_writer(args.out):
        record = open_record(path, settings, args.overwrite)
        load = partial(harness.load_for_harness, options=cli.options(Runtime, args), batch_size=args.batch_size)
        evaluate(models, tasks, asked, load, record, path)
        table = table_of(record, models, tasks)
        with atomic(args.out) as tmp:
            table.to_csv(tmp, sep="\t", index=False, float_format="%.6g")
    show_table(table)
    print(f"wrote {args.out} and {path}")


if __name__ == "__main__":
    cli.run(main)
