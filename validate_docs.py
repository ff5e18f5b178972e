"""Step 6, to read: show documents with their losses, and the tokens that need the retrieval heads.

    python validate_docs.py --doc_id data/fineweb10B/fineweb_train_000003:95137733-95138028 \\
        --base_model hfl/chinese-llama-2-1.3b --reference_model reference-model
    python validate_docs.py --scores data/ai_scores.tsv --top 1 --bottom 1        the ends of each domain
    python validate_docs.py --scores data/ai_scores.parquet --top 10 --bottom 10 --html data/tokens.html

Reads   the shards of the ids (an id from any table or output), or a score table and its selection
Writes  nothing; prints each document's text, L_base, L_ref and AI_Score, and the tokens whose loss rises most when the
        heads are masked. With --scores it lists documents of the table and how they begin; no model runs. Only
        documents that rank_scores.py ranked are listed, if there is a selection from the table (--selection).
        With --html, for either, it writes one page to open in a browser: every token is coloured by how much its loss
        rises, with its losses, its ranks, and the token to which the strongest retrieval head attends to predict it.
"""

import argparse

from common import cli, flags
from common.errors import InputError
from common.files import as_path, sole_writer


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--doc_id", nargs="+", help="path/of/shard:start-end")
    what.add_argument("--scores", type=as_path, help="a score table, for the ends of its 24 largest domains")
    parser.add_argument(
        "--selection", type=as_path, help="with --scores: the selection from it (default: top20.parquet next to it)"
    )
    flags.add_data_dir_flag(parser)
    parser.add_argument("--top", type=cli.non_negative_int, default=1, help="with --scores: how many of the best")
    parser.add_argument("--bottom", type=cli.non_negative_int, default=1, help="with --scores: how many of the lowest")
    parser.add_argument("--tokens", type=cli.non_negative_int, default=10, help="how many tokens to show")
    parser.add_argument("--html", type=as_path, help="write a page with every token coloured, and print nothing")
    parser.add_argument(
        "--head",
        metavar="LAYER,HEAD",
        help="with --html: the head whose attention is shown (default: the first in the reference's record, the best)",
    )
    flags.add_pair_flags(parser)
    flags.add_separator_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.model.checkpoints import Runtime, load_model_tokenizer
    from common.model.heads import Head
    from common.pages.inspection import Entry, Viewer, about_ends, list_ends, print_views, write_token_page
    from common.pages.page import check_page
    from common.scoring.known import known_flags, reference_values, scores_of
    from common.scoring.pair import PairOptions, load_pair
    from common.shards.reader import ShardReader
    from common.table.selection import selection_next_to

    vars(args).update(known_flags(vars(args), args.scores or scores_of(args.doc_id)))
    if args.head and not args.html:
        raise InputError("--head: only the page of --html shows the attention of a head; give both or neither")
    head = Head.parse(args.head, "--head") if args.head else None
    if args.html:
        check_page(args.html)
    options = cli.options(PairOptions, args, runtime=cli.options(Runtime, args))
    tokenizer = load_model_tokenizer(args.base_model, options.runtime)
    reader = cli.options(ShardReader, args, model_tokenizer=tokenizer)
    viewer = Viewer(list(map(as_path, args.data_dir)), reader)
    selection = args.selection or (selection_next_to(args.scores) if args.scores else None)
    if args.html:
        if args.scores:
            of_domains = viewer.ends(args.scores, selection, args.top, args.bottom)
            entries = [entry for _, _, found in of_domains for entry, _ in found]
        else:
            entries = [Entry(viewer.view(doc_id)) for doc_id in args.doc_id]
        if not entries:
            raise InputError("--top 0 --bottom 0: no document to show; ask for at least one")
        with sole_writer(args.html):
            note = about_ends(args.scores, selection) if args.scores else None
            write_token_page(args.html, entries, options, head, args.tokens, note)
    elif args.scores:
        first = list_ends(viewer, args.scores, selection, args.top, args.bottom)
        if first:
            command = cli.command(
                "validate_docs.py",
                base_model=args.base_model,
                reference_model=reference_values(args.reference_model, args.reference_of),
                seq_len=args.seq_len,
                tokenizer=args.tokenizer,
                eot_id=args.eot_id,
                eot_side=None if args.eot_id is None else args.eot_side,
                token_dtype=args.token_dtype,
                score_tokens=args.score_tokens,
                score_separator=None if args.score_separator else "no",
                doc_id=first,
            )
            print(f"\nnext, one of them token by token: {command}")
    else:
        views = [viewer.view(doc_id) for doc_id in args.doc_id]
        print_views(views, load_pair(options), args.seq_len, args.tokens)


if __name__ == "__main__":
    cli.run(main)
