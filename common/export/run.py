"""Exports a selection: opens its shards one after another, and writes their documents in the format of a trainer."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from common import cli
from common.errors import InputError
from common.export.formats import FORMATS, Part
from common.files import atomic, is_url, read_json, refuse_url, write_json
from common.shards.reader import ShardReader
from common.table.places import Places

RECORD = "export.json"  # in the folder: what is in it


def export(selection: Path, reader: ShardReader, format_name: str, out_dir: Path, overwrite: bool) -> None:
    """Write the documents of a selection into a folder, whole or not at all, and print how a trainer reads them.

    The documents of a shard are in the order of the shard, each once. Call it as the sole writer of `out_dir`.

    Raises:
        InputError: it is no selection, a shard is damaged or has other documents, the shards are not of one kind, or
            the folder is another program's, or without `overwrite` of another export.
    """
    refuse_url(out_dir)
    about = {"selection": str(selection), "format": format_name}
    before = read_json(out_dir / RECORD) if (out_dir / RECORD).exists() and not overwrite else about
    if before | about != before:
        raise InputError(f"{out_dir}: another export; give another --out_dir, or --overwrite")
    places, parts = Places.read(selection), []
    total = int((places.spans[:, 1] - places.spans[:, 0]).sum())
    with atomic(out_dir, RECORD) as folder, cli.progress(total, "writing") as bar:
        folder.mkdir()
        written = FORMATS[format_name](folder, out_dir)
        for part, tokens in _parts(places, reader):
            _check(part, parts, written.copies)
            written.add(part, tokens)
            parts.append(part)
            bar.update(int(part.lengths.sum()))
        if not parts:
            raise InputError(f"{selection}: no documents in it; select some with rank_scores.py")
        line = written.finish(parts)
        lengths = np.concatenate([part.lengths for part in parts])
        counts = {"documents": len(lengths), "tokens": int(lengths.sum())}
        write_json(folder / RECORD, about | counts | {"use": line})
    print("wrote {documents:,} documents, {tokens:,} tokens, to ".format_map(counts) + f"{out_dir}/; next:")
    print(line)


def _parts(places: Places, reader: ShardReader) -> Iterator[tuple[Part, np.ndarray]]:
    """The documents of each shard, and all tokens of it, by the names of the shards."""
    names = names_of(places.shards)
    for number in sorted(range(len(names)), key=names.__getitem__):
        shard, path = places.open(number, reader), places.shards[number]
        spans = np.unique(places.spans[places.shard_of == number], axis=0)
        about = spans, shard.tokens.dtype, shard.first_byte, shard.separator_id, shard.info
        yield Part(names[number], path, *about), shard.tokens


def names_of(paths: list[Path]) -> list[str]:
    """The paths, without their suffixes, from the folder that holds them all, as names in one folder.

    >>> names_of([Path("data/a/x.bin"), Path("data/b/x.bin")]), names_of([Path("data/a/x.bin")])
    (['a-x', 'b-x'], ['x'])
    """
    whole = [PurePosixPath("/", str(path) if is_url(path) else os.path.abspath(path)) for path in paths]  # noqa: PTH100
    common = os.path.commonpath([path.parent for path in whole]) if whole else ""
    return ["-".join(path.relative_to(common).with_suffix("").parts) for path in whole]


def _check(part: Part, before: list[Part], copies: bool) -> None:
    """Raise InputError for a part that cannot stand with those before it, or whose documents cannot be separated."""
    kinds = [(each.dtype, each.info and each.info.fingerprint, each.separator_id) for each in (*before[:1], part)]
    if len(set(kinds)) > 1:
        raise InputError(f"{part.path}: of another tokenizer than {before[0].path}; select from one kind of shards")
    if part.name in {other.name for other in before}:
        raise InputError(f"{part.path}: another shard gets the same name, {part.name}; rename one")
    if copies and part.separator_id is None:
        raise InputError(f"{part.path}: does not say which token ends a document; give its id with --eot_id")
    if copies and part.separator_id > np.iinfo(part.dtype).max:
        raise InputError(f"{part.path}: --eot_id {part.separator_id} does not fit its tokens, {part.dtype.name}")
