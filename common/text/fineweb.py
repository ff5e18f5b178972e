"""The text that step 4 tokenizes: FineWeb or another data set of the hub, the sample text, or files."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

from common import cli
from common.errors import InputError, few
from common.files import as_path, expand
from common.text.corpus import RowReader, SourceDocument, read_files, read_hub
from common.text.prefiltered import Prefilter
from common.text.rows import files_in, text_bytes
from common.text.sample import sample_documents

HUB_NAME = "HuggingFaceFW/fineweb"
HUB_CONFIGS = {"10B": "sample-10BT", "100B": "sample-100BT", "350B": "sample-350BT"}
HUB_DOMAIN = "fineweb"
BYTES_PER_TOKEN = 4  # roughly, for the time left; compressed files hold more


@dataclass(frozen=True)
class Corpus:
    """Documents to tokenize.

    Attributes:
        name: for messages.
        documents: as they are read.
        expected_tokens: a rough number, for the time left; None if it is not known.
        identity: settings that a later run must have to continue this one.
    """

    name: str
    documents: Iterable[SourceDocument]
    expected_tokens: int | None
    identity: dict


def open_files(inputs: Sequence[str], reader: RowReader, first: Sequence[str] = ()) -> Corpus:
    """The documents of files, folders, globs and URLs.

    Args:
        first: the files that are read first; those of `inputs` that are not among them follow.

    Raises:
        InputError: a pattern matches no file, or as in `files_in`.
    """
    found = {str(path): path for path in input_files(inputs)}
    paths = [found[name] for name in {**dict.fromkeys(name for name in first if name in found), **found}]
    files = list(map(file_state, paths))
    expected_tokens = sum(text_bytes(path, reader.columns.text) for path in paths) // BYTES_PER_TOKEN
    identity = {"source": files, "sample": None}
    return Corpus(" ".join(inputs), read_files(paths, reader), expected_tokens, identity)


def input_files(inputs: Sequence[str]) -> list[Path]:
    """The files of files, folders, globs and URLs; InputError as in `open_files`."""
    folders = {name: files_in(as_path(name)) for name in inputs if as_path(name).is_dir()}
    return expand(list(chain.from_iterable(map(str, folders.get(name, [name])) for name in inputs)))


def file_state(path: Path) -> list:
    """The name of a file, its size and its time of change."""
    return [str(path), path.stat().st_size, path.stat().st_mtime_ns]


def open_hub(name: str, config: str | None, split: str, reader: RowReader) -> Corpus:
    """A data set of the Hugging Face hub."""
    identity = {"source": " ".join(filter(None, (name, config, split))), "sample": None}
    return Corpus(name, read_hub(name, config, reader, split=split), None, identity)


def open_version(version: str, reader: RowReader) -> Corpus:
    """One of `HUB_CONFIGS`, or `sample`; InputError if a package of the sample is missing."""
    if version == "sample":
        documents = list(sample_documents())
        digest = hashlib.sha256(repr(documents).encode()).hexdigest()[:16]
        expected_tokens = sum(len(document.text) for document in documents) // BYTES_PER_TOKEN
        return Corpus(version, documents, expected_tokens, {"source": version, "sample": digest})
    documents = read_hub(HUB_NAME, HUB_CONFIGS[version], reader, HUB_DOMAIN)
    expected_tokens = int(version.removesuffix("B")) * 10**9
    return Corpus(version, documents, expected_tokens, {"source": version, "sample": None})


def kept_by(prefilter: Prefilter, corpus: Corpus, max_docs: int | None) -> Corpus:
    """The documents of files that a prefilter keeps, and what it kept of those that are read.

    Args:
        max_docs: so many are tokenized at most.

    Raises:
        InputError: nothing is kept of a domain among what is read, or as in `Prefilter.facts_of_files`.
    """
    files = [name for name, *_ in corpus.identity["source"]]
    facts = prefilter.facts_of_files(files, max_docs)
    if missing := [name for name, part in facts.domains.items() if not part.kept]:
        raise InputError(
            f"--prefilter: of {_some(missing)} nothing is kept among the documents that are read, so step 6 would "
            "select nothing at all; read more files, or give a larger --max_docs"
        )
    if scarce := [name for name, part in facts.domains.items() if 100 * part.kept < facts.top_pct * part.documents]:
        cli.warn(
            f"of {_some(scarce)} less than the top {facts.top_pct:g} % of the documents that are read is kept, so "
            "step 6 will refuse to select as much; read more files, or keep more"
        )
    share = facts.share("kept_characters", "characters")
    return replace(
        corpus,
        documents=prefilter.kept(corpus.documents, files),
        expected_tokens=corpus.expected_tokens and math.ceil(share * corpus.expected_tokens),
        identity=corpus.identity | {"prefilter": asdict(facts)},
    )


def _some(domains: list[str]) -> str:
    return f"domain{'s' * (len(domains) > 1)} {few(domains)}"
