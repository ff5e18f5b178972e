"""Shows documents: prints their losses, lists the best and the lowest, or writes a page."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import cli
from common.errors import one_line, visible
from common.model.heads import Head
from common.model.reference import RECORD_NAME
from common.pages.page import write_page
from common.pages.token_view import document_record, strongest_head
from common.scoring.known import reference_values
from common.scoring.loss import TokenLosses
from common.scoring.pair import Pair, PairOptions, load_pair
from common.shards.doc_id import parse_doc_id, require_inside
from common.shards.documents import Document
from common.shards.format import check_vocabulary
from common.shards.reader import ShardReader
from common.table.domains import domain_sizes, ends, largest, smaller
from common.table.schema import NO_DOMAIN, RANK_SCORE
from common.table.selection import read_ranked, read_selection_record
from common.text.tokenization import TextTokenizer

SNIPPET_CHARS = 90


class View(NamedTuple):
    """A document, or a part of it.

    Attributes:
        doc_id: of the document or the part, as the user spelled it.
        document: the whole; only the tokens of the part are scored.
        part: where the part is in the document, in tokens; for a whole document all of it.
        part_of: the id of the document, if this is a part.
    """

    doc_id: str
    document: Document
    part: slice
    part_of: str | None

    @property
    def token_ids(self) -> np.ndarray:
        """The tokens to show."""
        return self.document.token_ids[self.part]


class Entry(NamedTuple):
    """A view with its domain and its end of that domain, `best` or `lowest`; both are empty for ids of the user."""

    view: View
    domain: str = ""
    mark: str = ""


class Viewer:
    """Finds documents by their ids.

    Args:
        folders: the folders in which shards may be.
        reader: with the model's tokenizer.
    """

    def __init__(self, folders: Sequence[Path], reader: ShardReader):
        self.folders, self.tokenizer = folders, reader.model_tokenizer
        self._open = cache(lambda path: reader.open(path).verified())

    def view(self, doc_id: str) -> View:
        """Find the document or the part with this id.

        Raises:
            InputError: its shard is outside the folders or of another tokenizer, or it is no part of one document.
        """
        path, start, end = parse_doc_id(doc_id)
        require_inside(doc_id, path, self.folders)
        shard = self._open(path)
        document = shard.document(shard.row_of(start, end))
        check_vocabulary(path, document.token_ids, self.tokenizer.vocabulary)
        part = slice(start - document.start, end - document.start)
        if len(document.token_ids[part]) == len(document):
            return View(doc_id, document, part, None)
        return View(doc_id, document.whole.within(part.start, part.stop), part, document.doc_id)

    def ends(
        self, scores: Path, selection: Path | None, top: int, bottom: int
    ) -> Iterator[tuple[str, int, list[tuple[Entry, float]]]]:
        """(domain, its number of documents, the best and the lowest of them with their scores) of a score table.

        With a selection, of the documents that were ranked. Prints how many domains are too small to be among them.
        """
        sizes = domain_sizes(read_ranked(scores, selection))
        shown = largest(sizes)
        for domain, best, lowest in ends(read_ranked(scores, selection), shown, top, bottom):
            name = domain or NO_DOMAIN
            rows = [("best", row) for row in best.to_pylist()] + [("lowest", row) for row in lowest.to_pylist()]
            found = [
                (Entry(self.view(row["doc_id"]), name, mark), row.get(RANK_SCORE, row["AI_Score"]))
                for mark, row in rows
            ]
            yield name, sizes[domain], found
        if rest := len(sizes) - len(shown):
            print(f"\n{smaller(rest)}; the record of rank_scores.py, .json, has all")


def print_views(views: list[View], pair: Pair, seq_len: int, num_tokens: int) -> None:
    """Print the text, the losses and the `num_tokens` tokens whose loss rises most, for each document."""
    for view in views:
        print(f"\n=== {view.doc_id}")
        if view.part_of:
            print(f"(a part of {view.part_of}, scored within it)")
        print(visible(pair.tokenizer.decode(view.token_ids.tolist())))
        if not view.document.is_scorable:
            print("--- not scored: no token to predict from context, or a chat without an answer")
            continue
        losses = pair.scorer_of(view.document.domain).score(list(view.document.windows(seq_len, pair.tokenizer.bos_id)))
        places, losses = losses.scored(view.document)
        means = losses.means()
        size = f"{len(view.token_ids)} tokens" + f", {len(places)} of them scored" * bool(view.document.passages)
        if pair.own_scorers:
            which = "of its own" if view.document.domain in pair.own_scorers else "for all other domains"
            print(f"--- domain {view.document.domain or NO_DOMAIN}, scored under the reference {which}")
        print(f"--- {size}  L_base {means.L_base:.6f}  L_ref {means.L_ref:.6f}  AI_Score {means.AI_Score:.6f}")
        _print_rises(view.document.token_ids, places, losses, pair.tokenizer, num_tokens)


def _print_rises(
    token_ids: np.ndarray, places: np.ndarray, losses: TokenLosses, tokenizer: TextTokenizer, count: int
) -> None:
    """Print the tokens whose loss rises most, each with the text before it; `places` are those of the losses."""
    rises = losses.reference - losses.base
    print("    rise    L_base     L_ref  token, and the text before it")
    for target in np.argsort(-rises, kind="stable")[:count]:
        place = int(places[target])
        [piece] = tokenizer.pieces([int(token_ids[place])])
        before = tokenizer.decode(token_ids[max(0, place - 16) : place].tolist())
        print(
            f"{rises[target]:8.3f}  {losses.base[target]:8.3f}  {losses.reference[target]:8.3f}  "
            f"{one_line(piece)!r} after {one_line(before)[-60:]!r}"
        )


def about_ends(scores: Path, selection: Path | None) -> str:
    """Which documents of a score table the best and the lowest are of."""
    if selection:
        how = "; ".join(": ".join(each) for each in read_selection_record(selection).facts())
        return f"The best and the lowest of the documents that were ranked for {selection} ({how})."
    return (
        f"No selection from {scores} is given, so copies and repetitive documents are included; make one with "
        "rank_scores.py and name it with --selection."
    )


def list_ends(viewer: Viewer, scores: Path, selection: Path | None, top: int, bottom: int) -> str | None:
    """Print the best and the lowest documents of each domain, and how they begin; returns the first doc_id."""
    first = None
    print(about_ends(scores, selection))
    for domain, count, entries in viewer.ends(scores, selection, top, bottom):
        print(f"\n{domain}: {count:,} documents")
        for entry, score in entries:
            text = viewer.tokenizer.decode(entry.view.token_ids[:64].tolist())
            first = first or entry.view.doc_id
            print(f"  {entry.mark:6} {score:8.4f}  {entry.view.doc_id}")
            print(" " * 19 + one_line(text)[:SNIPPET_CHARS])
    return first


def write_token_page(
    out: Path,
    entries: list[Entry],
    options: PairOptions,
    wanted_head: Head | None,
    num_tokens: int,
    note: str | None = None,
) -> None:
    """Write a page on which each token is coloured by how much its loss rises.

    Args:
        wanted_head: the head whose attention is shown; None is the first in the reference's record.
        num_tokens: how many of the tokens whose loss rises most are listed for each document.
        note: for the reader, above the documents.
    """
    pair = load_pair(options)
    head = strongest_head(pair, options.reference_model, wanted_head)
    records = []
    with cli.progress(sum(len(entry.view.document) for entry in entries), "computing") as bar:
        for view, domain, mark in entries:
            about = {"doc_id": view.doc_id, "part_of": view.part_of, "domain": domain, "mark": mark}
            records.append(about | document_record(view.document, pair, options.seq_len, head))
            bar.update(len(view.document))
    data = {
        "base": options.base_model,
        "reference": " ".join(reference_values(options.reference_model, options.reference_of)),
        "summary": pair.description.summary,
        "seq_len": options.seq_len,
        "head": head,
        "record": f"{options.reference_model}/{RECORD_NAME}",
        "num_tokens": num_tokens,
        "note": note,
        "documents": records,
    }
    write_page(out, "tokens.html", data)
    print(f"wrote {out}; open it in a browser")
