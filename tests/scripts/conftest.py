"""What tests of scripts share: a finished run and copies of it, bad input, and the pages in a browser."""

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from playwright.sync_api import Error, sync_playwright

import attention_influence_scoring
import compute_retrieval_heads
import fineweb
import generate_retrieval_probes
import make_reference_model
import rank_scores
import report
import validate_docs
from common.model.heads import write_head_scores
from common.shards.index import read_index
from common.shards.reader import ShardReader
from tests.conftest import MASKED, SENTENCES, error_of, load_plain, plain_windows, tiny_model
from tests.pages.conftest import TEXTS

KEPT = "file row domain characters predicted kept".split()  # columns of a prefilter's table
WORDS = " ".join(SENTENCES).replace(".", "").split()
SHARD = "data/mine/fineweb_train_000001.bin"
HEADS = "data/retrieval_heads.txt"
PROBES = "data/probes.jsonl"


def sentence(number: int) -> str:
    rng = np.random.default_rng(number)
    return f"{' '.join(rng.choice(WORDS, 2))} {number}"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """90 documents of 2 domains, some empty or of one token, one longer than a shard."""
    path = tmp_path_factory.mktemp("corpus") / "text.jsonl"
    texts = [" ".join(sentence(j) for j in range(i, i + 1 + i % 7)) for i in range(86)]
    texts += ["", "a", "text that says </s> and <s> stays text", " ".join(WORDS)]
    with path.open("w") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"text": text, "id": f"doc {number}", "kind": "ab"[number % 2]}) + "\n")
    return path


@pytest.fixture(scope="session")
def sentences(tmp_path_factory):
    path = tmp_path_factory.mktemp("sentences") / "text.txt"
    path.write_text("\n\n".join(map(sentence, range(300))))
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory, spm_folder, corpus, sentences):
    """A folder in which all steps were run on a Llama-2-like checkpoint: BOS, SentencePiece, pytorch_model.bin."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        generate_retrieval_probes.main(
            [
                *f"--tokenizer {spm_folder} --num_probes 6 --max_tokens 400 --key_length 6 --corpus".split(),
                str(sentences),
            ]
        )
        compute_retrieval_heads.main(["--model", spm_folder])
        make_reference_model.main(["--base_model", spm_folder, "--probes", "data/probes.jsonl"])
        flags = "--domain_column kind --out_dir data/mine --shard_size 500".split()
        fineweb.main(["--tokenizer", spm_folder, "--input", str(corpus), *flags])
        attention_influence_scoring.main([*f"--base_model {spm_folder} --data data/mine/*.bin --seq_len 64".split()])
        rank_scores.main([])
    return folder


@pytest.fixture
def run(finished, tmp_path, monkeypatch):
    """A copy of the finished run, as the working directory."""
    for path in finished.rglob("*"):
        target = tmp_path / path.relative_to(finished)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_kept(rows, folder="data/prefilter", recall=0.9, keep=0.4, empty=()):
    """What a prefilter writes: its table of rows, each as in KEPT, and its record; all domains have the same recall.

    Args:
        empty: files without documents.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=KEPT).astype({"predicted": "float32"})
    table.to_parquet(f"{folder}/kept.parquet", index=False)
    domains = {}
    for name, every in table.groupby("domain"):
        kept = every[every["kept"]]
        domains[name] = {
            "documents": len(every),
            "kept": len(kept),
            "characters": int(every["characters"].sum()),
            "kept_characters": int(kept["characters"].sum()),
            "share": len(kept) / len(every),
            "recall": None if len(kept) == len(every) else {"estimate": recall, "low": recall - 0.1, "high": 1.0},
        }
    record = {"keep": keep, "recall": None, "score": "AI_Score", "top_pct": 20, "model": "f00d", "domains": domains}
    inputs = dict.fromkeys([*table["file"], *empty], (0, 0))
    Path(folder, "kept.json").write_text(json.dumps(record | {"inputs": inputs}))


def shown_losses(out):
    """L_base, L_ref and AI_Score as validate_docs prints them."""
    return tuple(map(float, re.search(r"L_base ([\d.-]+)  L_ref ([\d.-]+)  AI_Score ([\d.-]+)", out).groups()))


def token_ids(doc_id: str, folder: Path | str = ".") -> list[int]:
    """The tokens that a doc_id names."""
    shard, _, span = doc_id.rpartition(":")
    start, end = map(int, span.split("-"))
    return ShardReader().open(Path(folder, f"{shard}.bin")).tokens[start:end].tolist()


def plain_token_losses(folder, ids: list[int], seq_len: int, bos_id: int | None = None) -> dict[int, float]:
    """The loss of each token that is a target, by its place in the document."""
    model, found = load_plain(folder), []
    for window in plain_windows(ids, seq_len, bos_id):
        with torch.no_grad():
            logits = model(torch.tensor([window])).logits[0, :-1]
        found += torch.nn.functional.cross_entropy(logits, torch.tensor(window[1:]), reduction="none").tolist()
    return dict(enumerate(found, bos_id is None))


def spoil(path, change):
    """Rewrite a file by a function of its bytes."""
    path.write_bytes(change(path.read_bytes()))


def write_llm_c_shard(path, documents, eot_id):
    """As llm.c writes them: the separator first in each document."""
    tokens = np.concatenate([[eot_id, *document] for document in documents]).astype("<u2")
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(tokens)
    path.write_bytes(header.tobytes() + tokens.tobytes())


def small_model(folder, **settings):
    """A tiny model in `small`, with the tokenizer of `bpe`."""
    tiny_model("Llama", **settings).save_pretrained(folder / "small")
    transformers.AutoTokenizer.from_pretrained(folder / "bpe").save_pretrained(folder / "small")


@pytest.fixture
def refused(run, spm_folder, bpe_folder, corpus, sentences, capsys):
    """Run a command that ends with one clear line and status 2, and see that it changes no file."""

    def check(command, prepare, wanted):
        (run / "bpe").symlink_to(bpe_folder)
        (run / "one.txt").write_text("Some text.")
        if prepare:
            prepare(run)
        names = {"BASE": spm_folder, "BPE": bpe_folder, "CORPUS": str(corpus), "SENTENCES": str(sentences)}
        script, *flags = command
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.suffix != ".lock"}
        line = error_of(script, [names.get(flag, flag) for flag in flags], capsys)
        for text in wanted:
            assert names.get(text, text) in line
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        assert {path: after[path] for path in before} == before
        new = {path for path in set(after) - set(before) if path.parent.suffix != ".parts"}
        assert {path.name for path in new if path.suffix != ".lock"} <= {"dataset.json"}

    return check


FLAGS = """--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync
--no-first-run""".split()
DOMAINS = [f"domain {'ab'[i % 2]}" for i in range(len(TEXTS))]
URLS = ["javascript:document.title='owned'", *(f"https://Site{i % 3}.example/page/{i}" for i in range(1, len(TEXTS)))]


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests."""
    with sync_playwright() as playwright:
        found = shutil.which("chromium") or shutil.which("google-chrome")
        try:
            running = playwright.chromium.launch(executable_path=found, args=FLAGS)
        except Error as error:
            pytest.fail(
                f"no browser: apt-get install chromium, or playwright install chromium ({error.message[:80]})",
                pytrace=False,
            )
        yield running
        running.close()


@contextmanager
def opened(browser, path, **settings):
    """A page in the browser; it must ask for nothing but itself, and leave nothing on the console."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, **settings)
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri())
    try:
        yield page
        assert page.title() != "owned"
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        assert said == []
    finally:
        context.close()


def page_data(path):
    """What a page was given."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)[1])


def write_corpus(folder, texts, tokenizer, domains, urls, shard_size):
    with (folder / "text.jsonl").open("w") as file:
        for number, text in enumerate(texts):
            record = {"text": text, "id": f"part{number % 4}/doc{number}", "kind": domains[number], "url": urls[number]}
            file.write(json.dumps(record) + "\n")
    flags = f"--domain_column kind --out_dir data/mine --shard_size {shard_size}".split()
    fineweb.main(["--tokenizer", tokenizer, "--input", "text.jsonl", *flags])


def score_at_random(folder, **columns):
    """A table of scores of every document, from no model."""
    rng, rows = np.random.default_rng(0), []
    for path in sorted((folder / "data/mine").glob("*.index.parquet")):
        name = f"data/mine/{path.name.removesuffix('.index.parquet')}"
        for row in read_index(path)[0].to_pylist():
            rows.append((f"{name}:{row['start']}-{row['end']}", row["domain"], row["end"] - row["start"]))
    table = pd.DataFrame(rows, columns=["doc_id", "domain", "num_tokens"])
    table["L_base"] = rng.uniform(1, 4, len(table)).round(6)
    table["AI_Score"] = rng.normal(0.3, 0.3, len(table)).round(6)
    table["L_ref"] = table["L_base"] * (1 + table["AI_Score"])
    for name, values in columns.items():
        table[name] = values
    table.to_parquet(folder / "data/ai_scores.parquet", index=False)
    return table


@pytest.fixture(scope="session")
def made_site(tmp_path_factory, pair_folders):
    """A folder with shards, scores, a selection, heads and models: what both scripts read."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(pair_folders["no BOS"] / "model", "base")
        shutil.copytree(pair_folders["no BOS"] / "reference-model", "reference-model")
        write_corpus(folder, TEXTS, "base", DOMAINS, URLS, 1500)
        score_at_random(folder)
        rank_scores.main("--scores data/ai_scores.parquet --max_repetition 1 --dedup none".split())
        write_head_scores("data/retrieval_heads.tsv", np.random.default_rng(0).random((4, 8)), MASKED)
    return folder


@pytest.fixture
def site(made_site, monkeypatch):
    """The folder as the working directory."""
    monkeypatch.chdir(made_site)
    return made_site


@pytest.fixture
def guarded(site, tmp_path):
    """A table of which a domain's best is repetitive and its second a copy, and the selection from it."""
    table = pd.read_parquet("data/ai_scores.parquet").assign(repetition=0.01, near_duplicate_of="")
    best = table[table["domain"] == "domain a"].sort_values("AI_Score").index[::-1]
    table.loc[best[0], "repetition"] = 0.9
    table.loc[best[1], "near_duplicate_of"] = table["doc_id"][best[2]]
    table.to_parquet(tmp_path / "ai_scores.parquet", index=False)
    rank_scores.main(["--scores", f"{tmp_path}/ai_scores.parquet", "--out", f"{tmp_path}/top20.tsv"])
    return tmp_path, table.loc[best]


def doc_id_of(number):
    """The doc_id of one of TEXTS."""
    return pd.read_parquet("data/ai_scores.parquet")["doc_id"][number]


def token_page(*flags, out="tokens.html"):
    validate_docs.main([*"--base_model base --seq_len 16 --html".split(), out, *flags])
    return Path(out).resolve()


def report_page(*flags, out="data/report.html"):
    report.main(["--base_model", "base", "--out", out, *flags])
    return Path(out).resolve()


@pytest.fixture
def no_page(site, spm_folder, capsys):
    """Run a command that ends with one clear line and status 2, and see that it writes no page."""

    def check(command, wanted):
        script, *flags = command
        (site / "folder.html/full").mkdir(parents=True, exist_ok=True)
        table = pd.read_parquet("data/ai_scores.parquet")
        moved = table.assign(doc_id=[f"data/gone/x:{i}-{i + 5}" for i in range(len(table))])
        moved.to_parquet("moved_scores.parquet", index=False)
        more = pd.concat([table, moved.head(1)])
        more.to_parquet("more_scores.parquet", index=False)
        for name in ("moved", "more"):
            ranking = f"--scores {name}_scores.parquet --out {name}.tsv --max_repetition 1 --dedup none"
            rank_scores.main(ranking.split())
        Path("headers.tsv").write_text("layer\thead\tretrieval_score\tselected\n")
        for name, text in (("odd", '{"scoring": {"seconds": "long"}}'), ("torn", "{")):
            table.to_parquet(f"{name}.parquet")
            Path(f"{name}.json").write_text(text)
        names = {"ID": table["doc_id"][4], "BOS": spm_folder}
        line = error_of(script, [names.get(flag, flag) for flag in flags], capsys)
        for text in wanted:
            assert text in line
        assert not (site / "new.html").exists()

    return check
