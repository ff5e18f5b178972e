"""Step 6, for the eye: read documents with their losses, and see which tokens need the retrieval heads.

    python validate_docs.py --doc_id data/fineweb10B/fineweb_train_000003:95137733-95138028 \\
        --base_model hfl/chinese-llama-2-1.3b --reference_model reference-model
    python validate_docs.py --scores data/ai_scores.tsv --top 1 --bottom 1        the ends of each domain
    python validate_docs.py --scores data/ai_scores.parquet --top 10 --bottom 10 --html data/tokens.html

Reads   the shards that the ids name (an id from any table or output will do), or a table of scores
Writes  nothing; prints each document's text, L_base, L_ref and AI_Score, and the tokens whose loss rises most when the
        heads are masked. With --scores it lists documents from the table with how they begin; no model runs.
        With --html, which both can be given, it writes one page to open in a browser: every token coloured by how much
        its loss rises, with its losses, its ranks, and where the strongest retrieval head looks to predict it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from common import cli
from common.errors import InputError, one_line, visible
from common.files import as_path, sole_writer
from common.flags import PairOptions, add_pair_flags, add_separator_flags, pair_options, runtime
from common.model.checkpoints import load_model_tokenizer
from common.model.heads import Head
from common.pages.page import check_page, write_page
from common.pages.token_view import document_record, strongest_head
from common.scoring.loss import TokenLosses
from common.scoring.pair import RECORD_NAME, Pair, load_pair
from common.shards.documents import (
    Shard,
    check_tokenizer,
    find_document,
    is_scorable,
    open_shard,
    parse_doc_id,
    require_inside,
    windows,
)
from common.shards.format import check_vocabulary
from common.table.ranking import ends
from common.text.tokenization import TextTokenizer

SNIPPET_CHARS = 90


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--doc_id", nargs="+", help="path/of/shard:start-end")
    what.add_argument("--scores", type=as_path, help="a table of scores to take the ends of each domain from")
    parser.add_argument(
        "--data_dir",
        nargs="+",
        type=as_path,
        help="folders that an id may lead into (default: the current folder)",
    )
    parser.add_argument("--top", type=cli.non_negative_int, default=1, help="with --scores: how many of the best")
    parser.add_argument("--bottom", type=cli.non_negative_int, default=1, help="with --scores: how many of the lowest")
    parser.add_argument("--tokens", type=cli.non_negative_int, default=10, help="how many tokens to show")
    parser.add_argument("--html", type=as_path, help="write a page with every token coloured, and print nothing")
    parser.add_argument(
        "--head",
        type=cli.head,
        metavar="LAYER,HEAD",
        help="with --html: the head whose looks are shown (default: the best that the reference masks, by its record)",
    )
    add_pair_flags(parser)
    add_separator_flags(parser)
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Document:
    """A document of a shard, or a part of it that is looked at.

    Attributes:
        token_ids: of the whole document.
        part: where in it the part lies, in tokens; all of it otherwise.
        scored: which tokens alone are scored, the part's, of a chat the answers', int64, shape [num_spans, 2]; None for
            all of them.
        part_of: the id of the document, if a part of it is looked at.
    """

    doc_id: str
    token_ids: np.ndarray
    part: slice
    separator_id: int
    scored: np.ndarray | None
    part_of: str | None


def open_document(
    doc_id: str, folders: list[Path], tokenizer: TextTokenizer, open_one: Callable[[Path], Shard]
) -> Document:
    """Find what a doc_id names.

    Raises:
        InputError: it leads outside the folders, is no part of one document, or was made with another tokenizer.
    """
    path, start, end = parse_doc_id(doc_id)
    require_inside(doc_id, path, folders)
    shard = open_one(path)
    check_tokenizer(shard, tokenizer)
    row = find_document(shard, start, end)
    first, last = map(int, shard.spans[row])
    token_ids, part, scored = shard.tokens[first:last], slice(start - first, end - first), shard.answers[row]
    check_vocabulary(path, token_ids, tokenizer.vocab_size)
    if (start, end) == (first, last):
        return Document(doc_id, token_ids, part, shard.separator_id, scored, None)
    scored = np.array([[0, len(token_ids)]]) if scored is None else scored
    scored = scored.clip(part.start, part.stop)
    return Document(doc_id, token_ids, part, shard.separator_id, scored, shard.doc_id(first, last))


def inspect(documents: list[Document], pair: Pair, seq_len: int, num_tokens: int) -> None:
    """Print text, losses and the tokens whose loss rises most, for each document."""
    for document in documents:
        print(f"\n=== {document.doc_id}")
        if document.part_of:
            print(f"(a part of {document.part_of}, scored within it)")
        shown = document.token_ids[document.part]
        print(visible(pair.tokenizer.decode(shown.tolist())))
        if not is_scorable(document.token_ids, document.separator_id, document.scored):
            print("--- not scored: no token to predict from context, or a chat without an answer")
            continue
        losses = pair.scorer.score(list(windows(document.token_ids, seq_len, pair.tokenizer.bos_id)))
        places, losses = losses.scored(len(document.token_ids), document.scored)
        base, reference, ai_score = losses.means()
        print(f"--- {len(shown)} tokens  L_base {base:.6f}  L_ref {reference:.6f}  AI_Score {ai_score:.6f}")
        print_rises(document.token_ids, places, losses, pair.tokenizer, num_tokens)


def print_rises(
    token_ids: np.ndarray, places: np.ndarray, losses: TokenLosses, tokenizer: TextTokenizer, count: int
) -> None:
    """Print the tokens whose loss rises most, each with what stands before it; `places` are those of the losses."""
    rises = losses.reference - losses.base
    print("    rise    L_base     L_ref  token, behind what stands before it")
    for target in np.argsort(-rises, kind="stable")[:count]:
        place = int(places[target])
        [piece] = tokenizer.pieces([int(token_ids[place])])
        before = tokenizer.decode(token_ids[max(0, place - 16) : place].tolist())
        print(
            f"{rises[target]:8.3f}  {losses.base[target]:8.3f}  {losses.reference[target]:8.3f}  "
            f"{one_line(piece)!r} behind {one_line(before)[-60:]!r}"
        )


def list_ends(
    scores_path: Path, top: int, bottom: int, read: Callable[[str], Document], tokenizer: TextTokenizer
) -> None:
    """Print the best and the lowest documents of each domain, with how they begin."""
    for domain, count, best, lowest in ends(scores_path, top, bottom):
        print(f"\n{domain}: {count:,} documents")
        for mark, rows in (("best", best), ("lowest", lowest)):
            for row in rows.to_pylist():
                document = read(row["doc_id"])
                beginning = one_line(tokenizer.decode(document.token_ids[document.part][:64].tolist()))
                print(f"  {mark:6} {row['AI_Score']:8.4f}  {row['doc_id']}")
                print(" " * 19 + beginning[:SNIPPET_CHARS])


def entries_at_ends(
    scores_path: Path, top: int, bottom: int, read: Callable[[str], Document]
) -> list[tuple[Document, str, str]]:
    """The documents at the ends of each domain, each with its domain and `best` or `lowest`."""
    return [
        (read(row["doc_id"]), domain, mark)
        for domain, _, best, lowest in ends(scores_path, top, bottom)
        for mark, rows in (("best", best), ("lowest", lowest))
        for row in rows.to_pylist()
    ]


def show_page(
    out: Path,
    entries: list[tuple[Document, str, str]],
    options: PairOptions,
    wanted_head: Head | None,
    num_tokens: int,
) -> None:
    """Compute what there is to see of each document, given with its domain and mark, and write the page."""
    pair = load_pair(options)
    head = strongest_head(pair, options.reference_model, wanted_head)
    records = []
    with cli.progress(sum(len(document.token_ids) for document, *_ in entries), "looking") as bar:
        for document, domain, mark in entries:
            about = {"doc_id": document.doc_id, "part_of": document.part_of, "domain": domain, "mark": mark}
            seen = document_record(
                document.token_ids, document.separator_id, document.scored, pair, options.seq_len, head
            )
            records.append(about | seen)
            bar.update(len(document.token_ids))
    facts = {
        "base": options.base_model,
        "reference": options.reference_model,
        "summary": pair.facts.summary,
        "seq_len": options.seq_len,
        "head": head,
        "record": f"{options.reference_model}/{RECORD_NAME}",
        "num_tokens": num_tokens,
    }
    write_page(out, "tokens.html", {**facts, "documents": records})
    print(f"wrote {out}; open it in a browser")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.head and not args.html:
        raise InputError("--head: only the page of --html shows where a head looks; give both or neither")
    if args.html:
        check_page(args.html)
    tokenizer = load_model_tokenizer(args.base_model, runtime(args))
    open_one = cache(lambda path: open_shard(path, args.eot_id, args.eot_side).verified())
    read = partial(open_document, folders=args.data_dir or [Path()], tokenizer=tokenizer, open_one=open_one)
    if args.html:
        if args.scores:
            entries = entries_at_ends(args.scores, args.top, args.bottom, read)
        else:
            entries = [(read(doc_id), "", "") for doc_id in args.doc_id]
        if not entries:
            raise InputError("--top 0 --bottom 0: no document to show; ask for one at least")
        with sole_writer(args.html):
            show_page(args.html, entries, pair_options(args), args.head, args.tokens)
    elif args.scores:
        list_ends(args.scores, args.top, args.bottom, read, tokenizer)
        models = f"--base_model {args.base_model} --reference_model {args.reference_model} --seq_len {args.seq_len}"
        models += f" --eot_id {args.eot_id} --eot_side {args.eot_side}" if args.eot_id is not None else ""
        print(f"\nlook at one, token by token: python validate_docs.py {models} --doc_id ID")
    else:
        documents = [read(doc_id) for doc_id in args.doc_id]
        inspect(documents, load_pair(pair_options(args)), args.seq_len, args.tokens)


if __name__ == "__main__":
    cli.run(main)
