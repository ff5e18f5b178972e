"""Score a few thousand documents of your own domains once, and keep what other experiments need of them.

    python experiments/pilot.py 'texts/*.jsonl.zst'       an hour on two cores with bfloat16; continues a stopped run

Needs   data/SmolLM2-135M-Instruct and reference-model (bash pipeline.sh); files of documents with the fields id and
        text, one file for each domain, named after it
Writes  data/pilot/losses/*.npz: the losses of all tokens, 64 documents in a file
        data/pilot/pool.jsonl, held_out.jsonl: id, domain and text of scored documents, and of others
        experiments/results/pilot.parquet: a row for each scored document

Python's own library is a domain of its own, code: its functions and classes. The first 800 documents of each domain
with at least 400 characters are scored, cut to at most 1,500 characters at the end of a line or a word. So the files
have to be shuffled.

Held-out documents are whole, and have at least 2,500 characters. They come from as many sources as possible, in turn; a
source is an id without the number of the piece at its end (novel.xml#12, library.py:40). The order of the sources is
random, and one is passed over if the pool would lose more than a tenth of the domain's scored documents: it holds no
document of their sources.

Losses are kept for one pair of models and one dtype; another pair needs another folder (--work). Those of a document
are used again if its text still has the same tokens.

Columns: id, domain, num_chars, num_tokens, L_base, L_ref, AI_Score and repetition, as in the score table;
AI_Score_novel_N without the tokens that end an N-gram which occurred before; AI_Score_first_N of the first N tokens.
"""

import argparse
import ast
import hashlib
import json
import re
import sys
import sysconfig
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import torch
from run_script import RESULTS, ROOT

from common import cli
from common.errors import InputError
from common.files import as_path, atomic, claim, expand
from common.model.checkpoints import Runtime
from common.scoring.pair import Pair, PairOptions, load_pair
from common.shards.documents import Document
from common.table.guards import novel, repetition
from common.text.corpus import Columns, RowReader, SourceDocument, read_files

WORK = ROOT / "data/pilot"
RESULT = RESULTS / "pilot.parquet"
SCORED, MIN_CHARS, LONGEST = 800, 400, 1500
HELD_OUT, FEWEST, MIN_HELD_OUT, LOST = 40, 10, 2500, 0.1
CHUNK, SEQ_LEN = 64, 1024
NGRAMS, FIRST = (2, 3, 4, 5, 10), (64, 128, 256)


class Losses(NamedTuple):
    """A scored document: its characters and tokens, and the losses of its last tokens, in nats."""

    chars: int
    token_ids: np.ndarray
    base: np.ndarray
    reference: np.ndarray


def drawn(name: str) -> str:
    """A pseudorandom text that depends only on the name, to sort by."""
    return hashlib.sha256(name.encode()).hexdigest()


def code() -> list[SourceDocument]:
    """The functions and classes of Python's library, in an order that depends only on their ids."""
    root, found = Path(sysconfig.get_path("stdlib")), []
    for path in root.glob("**/*.py"):
        place = path.relative_to(root)
        if {"test", "tests", "idlelib", "site-packages"} & set(place.parts):
            continue
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (UnicodeDecodeError, SyntaxError):  # files that show errors
            continue
        lines = source.splitlines()
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                text = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                found.append(SourceDocument(text, f"{place.as_posix()}:{node.lineno}", "code"))
    return sorted(found, key=lambda each: drawn(each.id))


def documents_of(patterns: list[str]) -> dict[str, list[SourceDocument]]:
    """The documents of each domain that are not short.

    Raises:
        InputError: as in `read_files`; a domain has two files, or none of its documents is long enough; an id is not
            unique.
    """
    found = {"code": long_enough(code())}
    for path in expand(patterns):
        domain = path.name.partition(".")[0]
        if domain in found:
            raise InputError(f"{path}: there are other documents of the domain {domain}; give the file another name")
        rows = read_files([path], RowReader(Columns(id="id")))
        found[domain] = long_enough(SourceDocument(row.text, row.id, domain) for row in rows)
        if not found[domain]:
            raise InputError(f"{path}: no document of {MIN_CHARS} characters; leave the file out, or give longer ones")
        name, count = Counter(document.id for document in found[domain]).most_common(1)[0]
        if count > 1:
            raise InputError(f"{path}: {count} documents have the id {name!r}; give each its own")
    return found


def long_enough(documents: Iterable[SourceDocument]) -> list[SourceDocument]:
    """The documents that are not short."""
    return [document for document in documents if len(document.text) >= MIN_CHARS]


def cut(text: str) -> str:
    """The text up to the last end of a line or word before `LONGEST` characters."""
    if len(text) <= LONGEST:
        return text
    ends = (text.rfind(end, LONGEST // 2, LONGEST) for end in "\n ")
    return text[: next((end for end in ends if end > 0), LONGEST)]


def source(document: SourceDocument) -> str:
    """Where a document was cut from: its id without the number of the piece."""
    return re.sub(r"[#:]\d+$", "", document.id)


def split(documents: list[SourceDocument], scored: int) -> tuple[list[SourceDocument], list[SourceDocument]]:
    """The pool and the held-out documents of a domain, of whose first `scored` documents the losses are known."""
    scored_ones = documents[:scored]
    counts, left = Counter(map(source, scored_ones)), LOST * len(scored_ones)
    long = defaultdict(list)
    for document in documents:
        if len(document.text) >= MIN_HELD_OUT:
            long[source(document)].append(document)
    chosen = []
    for name in sorted(long, key=drawn):
        if counts[name] <= left:
            left -= counts[name]
            chosen.append(long[name])
    held_out = list(filter(None, chain.from_iterable(zip_longest(*chosen))))[:HELD_OUT]
    if len(held_out) < FEWEST:
        raise InputError(
            f"{documents[0].domain}: {len(held_out)} documents of {MIN_HELD_OUT} characters can be held out, of "
            f"sources with at most {LOST:.0%} of the scored documents; {FEWEST} are needed: add other sources"
        )
    sources = set(map(source, held_out))
    return [document for document in scored_ones if source(document) not in sources], held_out


def write_documents(documents: Iterable[dict], path: Path) -> None:
    """Write documents as JSON lines."""
    with atomic(path) as tmp, tmp.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(document) + "\n" for document in documents)


def read_losses(folder: Path) -> dict[tuple[str, str], Losses]:
    """The losses of all documents that were scored, by domain and id."""
    found = {}
    for path in sorted(folder.glob("[0-9]*.npz")):
        try:
            with np.load(path) as file:
                for k, row in enumerate(json.loads(str(file["meta"]))):
                    arrays = (file[f"{name}{k}"] for name in ("ids", "base", "ref"))
                    found[row["domain"], row["id"]] = Losses(row["chars"], *arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not losses of this script ({error}); delete it and run again") from None
    return found


def score(pair: Pair, documents: list[SourceDocument], folder: Path) -> None:
    """Score documents and write their losses, a file for each `CHUNK` of them."""
    separator = pair.tokenizer.separator_id
    number = max((int(path.stem) for path in folder.glob("[0-9]*.npz")), default=-1) + 1
    with cli.progress(len(documents), "scoring", "documents") as bar:
        for first in range(0, len(documents), CHUNK):
            chunk = documents[first : first + CHUNK]
            ids = [[*pair.tokenizer.encode(document.text), separator] for document in chunk]
            windows = [
                list(Document("", 0, np.array(each), separator, "").windows(SEQ_LEN, pair.tokenizer.bos_id))
                for each in ids
            ]
            arrays = {f"ids{k}": np.array(each, np.uint32) for k, each in enumerate(ids)}
            for k, losses in chain.from_iterable(pair.scorer.stream(enumerate(windows))):
                arrays |= {f"base{k}": losses.base, f"ref{k}": losses.reference}
            meta = [{"domain": each.domain, "id": each.id, "chars": len(each.text)} for each in chunk]
            with atomic(folder / f"{number:06d}.npz") as tmp, tmp.open("wb") as file:
                np.savez_compressed(file, meta=json.dumps(meta), **arrays)
            number += 1
            bar.update(len(chunk))


def require_same_tokens(
    pair: Pair, wanted: dict[tuple[str, str], SourceDocument], known: dict[tuple[str, str], Losses], folder: Path
) -> None:
    """Raise InputError if the losses of a document are those of another text."""
    encoded = pair.tokenizer.encode_batch([document.text for document in wanted.values()])
    for (domain, name), ids in zip(wanted, encoded, strict=True):
        if known[domain, name].token_ids.tolist() != [*ids, pair.tokenizer.separator_id]:
            raise InputError(f"{folder}: {domain}, {name}: scored with another text; delete the folder, run again")


def table(losses: dict[tuple[str, str], Losses]) -> pd.DataFrame:
    """A row for each document, with all scores."""
    each = list(losses.values())
    base, reference = (np.concatenate([getattr(one, name) for one in each]) for name in ("base", "reference"))
    counts = np.array([len(one.base) for one in each])
    starts = np.cumsum(counts) - counts

    def of_targets(masks: Iterable[np.ndarray]) -> np.ndarray:
        """AI_Score of each document over the targets among some of its tokens."""
        mask = np.concatenate([mask[-count:] for mask, count in zip(masks, counts, strict=True)])
        of_base, of_reference = (np.add.reduceat(loss * mask, starts, dtype=np.float64) for loss in (base, reference))
        return of_reference / of_base - 1

    columns = {
        "L_base": np.add.reduceat(base, starts, dtype=np.float64) / counts,
        "L_ref": np.add.reduceat(reference, starts, dtype=np.float64) / counts,
        "AI_Score": of_targets(np.ones(len(one.token_ids), bool) for one in each),
        "repetition": np.array([repetition(one.token_ids[:-1].astype(np.int64)) for one in each]),
        **{f"AI_Score_novel_{n}": of_targets(novel(one.token_ids, n) for one in each) for n in NGRAMS},
        **{f"AI_Score_first_{n}": of_targets(np.arange(len(one.token_ids)) < n for one in each) for n in FIRST},
    }
    about = {
        "id": [name for _, name in losses],
        "domain": [domain for domain, _ in losses],
        "num_chars": np.array([one.chars for one in each], np.int32),
        "num_tokens": np.array([len(one.token_ids) for one in each], np.int32),
    }
    return pd.DataFrame(about | {name: values.astype(np.float32) for name, values in columns.items()})


def interleaved(documents: dict[str, list[SourceDocument]], scored: int) -> Iterator[SourceDocument]:
    """The documents to score, cut, the domains in turn."""
    for row in zip_longest(*(of_domain[:scored] for of_domain in documents.values())):
        for document in filter(None, row):
            yield SourceDocument(cut(document.text), document.id, document.domain)


def add_dtype_flag(parser: argparse.ArgumentParser) -> None:
    """--dtype, by default bfloat16 where that is faster."""
    fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    default = "bfloat16" if fast else "float32"
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default=default, help="bfloat16 if it is fast here")


def main(argv: list[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("files", nargs="+", help="files or globs, one file for each domain")
    parser.add_argument("--base_model", default=str(ROOT / "data/SmolLM2-135M-Instruct"), help="name or folder")
    parser.add_argument("--reference_model", default=str(ROOT / "reference-model"), help="its masked copy from step 3")
    parser.add_argument("--documents", type=cli.positive_int, default=SCORED, help="to score, of each domain")
    parser.add_argument("--work", type=as_path, default=WORK, help="folder of losses, pool.jsonl and held_out.jsonl")
    parser.add_argument("--out", type=as_path, default=RESULT, help="the table, .parquet")
    add_dtype_flag(parser)
    args = parser.parse_args(argv)
    documents = documents_of(args.files)
    parts = [split(of_domain, args.documents) for of_domain in documents.values()]
    wanted = {(document.domain, document.id): document for document in interleaved(documents, args.documents)}
    runtime, folder = Runtime(dtype=args.dtype), args.work / "losses"
    pair = load_pair(PairOptions(args.base_model, args.reference_model, SEQ_LEN, runtime=runtime))
    claim(folder / "run.json", {**pair.description.identity, "dtype": pair.description.dtype}, False, "*.npz")
    known = read_losses(folder)
    if missing := [document for name, document in wanted.items() if name not in known]:
        score(pair, missing, folder)
        known = read_losses(folder)
    require_same_tokens(pair, wanted, known, folder)
    found = table({name: known[name] for name in wanted})
    kept = ({"id": each.id, "domain": each.domain, "text": cut(each.text)} for pool, _ in parts for each in pool)
    write_documents(kept, args.work / "pool.jsonl")
    kept = ({"id": each.id, "domain": each.domain, "text": each.text} for _, held_out in parts for each in held_out)
    write_documents(kept, args.work / "held_out.jsonl")
    with atomic(args.out) as tmp:
        found.to_parquet(tmp, index=False, compression="zstd")
    print(f"wrote {args.work}/pool.jsonl and held_out.jsonl")
    print(f"wrote {len(found):,} rows, {found['num_tokens'].sum():,} tokens, to {args.out}")
    print("next: python experiments/does_it_help.py")


if __name__ == "__main__":
    cli.run(main)
