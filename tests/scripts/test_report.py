"""The pages that show documents: what they say, compared with plain models, and how they behave in a real browser."""

import json
import re
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import transformers
from playwright.sync_api import Error, expect, sync_playwright

import fineweb
import rank_scores
import report
import validate_docs
from common import cli
from common.errors import visible
from common.flags import PairOptions
from common.model.heads import read_scores, write_scores
from common.model.masking import mask_heads
from common.pages.origins import source_names
from common.pages.overview import evenly
from common.pages.page import embedded
from common.pages.token_view import AT_BOS, NOWHERE, characters, document_record, strongest_head
from common.scoring.pair import load_pair, write_record
from common.shards.documents import read_index, windows
from common.text.tokenization import load_tokenizer
from tests.conftest import SENTENCES, error_of, tiny_model

HEADS = [(1, 3), (2, 5)]
SEQ_LEN = 16
FLAGS = """--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync
--no-first-run""".split()
INJECTION = "</script><script>document.title='owned'</script> <img src=x onerror=\"document.title='owned'\"> &amp; <b>"
TEXTS = [
    INJECTION,
    "red \x1b[31m and a bell \x07, a tab\tand\r\n  two  spaces\n\n\nthree lines",
    "naïve 🙂👩‍🚀 你好, 世界 — half of it",
    "a",
    f"{SENTENCES[0]} {SENTENCES[1]} {SENTENCES[0]} {SENTENCES[2]} {SENTENCES[0]}",
    *(" ".join(SENTENCES[i % 16 : i % 16 + 3]) + f" number {i}" for i in range(40)),
]
DOMAINS = [f"domain {'ab'[i % 2]}" for i in range(len(TEXTS))]
URLS = ["javascript:document.title='owned'", *(f"https://Site{i % 3}.example/page/{i}" for i in range(1, len(TEXTS)))]


def make_pair(folder, tokenizer_folder, **settings):
    """A tiny base and a masked copy, saved with a tokenizer; returns the two folders."""
    base, reference = folder / "base", folder / "reference"
    model = tiny_model("Llama", **settings)
    for path in (base, reference):
        model.save_pretrained(path)
        load_tokenizer(tokenizer_folder).save(path)
        mask_heads(model, HEADS, "uniform")
    write_record(reference, str(base), "uniform", HEADS[::-1])
    return base, reference


@pytest.fixture(scope="session")
def pair_folders(tmp_path_factory, bpe_folder, bos_bpe_folder, spm_folder):
    return {
        "no BOS": make_pair(tmp_path_factory.mktemp("no_bos"), bpe_folder),
        "BOS": make_pair(tmp_path_factory.mktemp("bos"), bos_bpe_folder),
        "SentencePiece": make_pair(tmp_path_factory.mktemp("spm"), spm_folder, bos_token_id=1, eos_token_id=2),
    }


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
def site(tmp_path_factory, pair_folders):
    """A folder with shards, scores, a selection, heads and models: what both scripts read."""
    folder = tmp_path_factory.mktemp("site")
    base, reference = pair_folders["no BOS"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copytree(base, "base")
        shutil.copytree(reference, "reference-model")
        write_corpus(folder, TEXTS, "base", DOMAINS, URLS, 1500)
        score_at_random(folder)
        rank_scores.main("--scores data/ai_scores.parquet --max_repetition 1 --dedup none".split())
        write_scores("data/retrieval_heads.tsv", np.random.default_rng(0).random((4, 8)), HEADS)
    return folder


@pytest.fixture
def run(site, monkeypatch):
    """The folder as the working directory."""
    monkeypatch.chdir(site)
    return site


def ids_of(run, tokenizer, text):
    return [*tokenizer.encode(text), tokenizer.separator_id]


def doc_id_of(run, number):
    """The doc_id of one of TEXTS."""
    table = pd.read_parquet("data/ai_scores.parquet")
    return table["doc_id"][number]


# What the token page says


def plain_window(folder, window, head):
    """By a plain model with eager attention: logits of each target, and the head's attention in the row before it."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        out = model(torch.tensor([window]), output_attentions=True)
    return out.logits[0, :-1], out.attentions[head[0]][0, head[1], :-1]


def plain_view(folder, ids, bos_id, head):
    """(loss, rank range, attention over document places and BOS) of every target, cut into windows by hand.

    Attention is a dict from a place in the document, or AT_BOS, to its weight.
    """
    adds_bos = bos_id is not None and ids[0] != bos_id
    first = 0 if adds_bos else 1
    view = {}
    for start in range(first, len(ids), SEQ_LEN):
        targets = list(range(start, min(start + SEQ_LEN, len(ids))))
        context = AT_BOS if bos_id is not None and (adds_bos or start > first) else start - 1
        places = [context, *targets]
        window = [bos_id if place == AT_BOS else ids[place] for place in places]
        logits, attention = plain_window(folder, window, head)
        for row, target in enumerate(targets):
            logit = logits[row, ids[target]]
            loss = float(torch.logsumexp(logits[row], 0) - logit)
            low = int((logits[row] > logit + 1e-4).sum()) + 1
            high = int((logits[row] > logit - 1e-4).sum())  # the target itself is among them
            view[target] = loss, (low, high), dict(zip(places, attention[row].tolist(), strict=False))
    return view


@pytest.mark.parametrize("begins_with_bos", [False, True])
@pytest.mark.parametrize("kind", ["no BOS", "BOS", "SentencePiece"])
def test_losses_ranks_and_looks_are_those_of_plain_models(pair_folders, kind, begins_with_bos):
    base, reference = pair_folders[kind]
    pair = load_pair(PairOptions(str(base), str(reference), SEQ_LEN))
    head = strongest_head(pair, str(reference), None)
    assert head == HEADS[1]  # the first in the record
    bos_id = pair.tokenizer.bos_id
    assert (bos_id is None) == (kind == "no BOS")
    ids = pair.tokenizer.encode(TEXTS[4] + TEXTS[2])[: 3 * SEQ_LEN + 5]
    ids = [*([bos_id or 0] if begins_with_bos else []), *ids, pair.tokenizer.separator_id]
    record = document_record(np.array(ids), pair.tokenizer.separator_id, None, pair, SEQ_LEN, head)
    losses = pair.scorer.score(list(windows(np.array(ids), SEQ_LEN, bos_id)))
    views = [plain_view(folder, ids, bos_id, head) for folder in (base, reference)]
    first = min(views[0])
    assert len(record["windows"]) == 4
    assert record["windows"][:2] == [first, first + SEQ_LEN]
    exact = {"ranks": [], "looks": []}
    for model, (name, of_pair) in enumerate([("base", losses.base), ("reference", losses.reference)]):
        assert record[name][:first] == record["ranks"][model][:first] == [None] * first
        assert np.array_equal(np.array(record[name][first:], np.float32), of_pair)
        for place, (loss, (low, high), _) in views[model].items():
            assert record[name][place] == pytest.approx(loss, abs=1e-4)
            assert low <= record["ranks"][model][place] <= high
            exact["ranks"].append(low == high)
    assert record["looks"][:first] == [NOWHERE] * first
    for place, (_, _, attention) in views[0].items():
        looked = record["looks"][place]
        assert attention[looked] >= max(attention.values()) - 1e-5
        exact["looks"].append(sum(weight >= max(attention.values()) - 1e-5 for weight in attention.values()) == 1)
    assert np.mean(exact["ranks"]) > 0.95  # so that the tolerance hides nothing
    assert np.mean(exact["looks"]) > 0.9
    assert len(set(record["looks"])) > 10


@pytest.mark.parametrize("fixture", ["bpe_folder", "bytes_folder", "spm_folder"])
def test_pieces_are_whole_characters_and_together_the_text(fixture, request):
    tokenizer = load_tokenizer(request.getfixturevalue(fixture))
    for text in TEXTS:
        ids = [*tokenizer.encode(text), tokenizer.separator_id]
        pieces = characters(ids, tokenizer)
        assert "".join(piece for piece, _ in pieces) == tokenizer.decode(ids)
        assert sum(count for _, count in pieces) == len(ids)
        assert not any("\ufffd" in piece for piece, _ in pieces)
    pieces = characters(tokenizer.encode("🙂é"), tokenizer)
    assert [piece for piece, _ in pieces if piece.strip()] == ["🙂", "é"]


def test_bytes_that_are_no_character_are_shown_as_such(bytes_folder):
    tokenizer = load_tokenizer(bytes_folder)
    smile, a = tokenizer.encode("🙂"), tokenizer.encode("a")
    assert characters([*smile[:2], *a], tokenizer) == [("\ufffda", 3)]
    assert characters(smile[:3], tokenizer) == [("\ufffd", 3)]


def test_the_head_of_the_record_must_be_masked_and_one_can_be_named(pair_folders, tmp_path):
    base, reference = pair_folders["no BOS"]
    pair = load_pair(PairOptions(str(base), str(reference), SEQ_LEN))
    assert strongest_head(pair, str(tmp_path), None) is None
    assert strongest_head(pair, str(tmp_path), (3, 7)) == (3, 7)
    write_record(tmp_path, str(base), "uniform", [(0, 0), *HEADS])
    with pytest.raises(cli.InputError, match=r"head 0,0, which the reference does not"):
        strongest_head(pair, str(tmp_path), None)


def test_json_in_a_page_cannot_end_its_element_and_keeps_every_character():
    record = {"a": "</script><!--\u2028\x00\r\n{{style}}", "b": "half \udc80"}
    text = embedded(record)
    assert "<" not in text
    assert json.loads(text) == record


# The token page in a browser


def token_page(run, *flags, out="tokens.html"):
    validate_docs.main([*"--base_model base --seq_len 16 --html".split(), out, *flags])
    return run / out


def text_of(page, place=0):
    return page.evaluate("place => document.querySelectorAll('.text')[place].textContent", place)


def test_pointing_at_a_token_shows_its_numbers_and_where_the_head_looks(run, browser, capsys):
    path = token_page(run, "--doc_id", doc_id_of(run, 4))
    assert capsys.readouterr().out.endswith(f"wrote {path.name}; open it in a browser\n")
    [record] = page_data(path)["documents"]
    place = next(i for i in range(20, 60) if record["looks"][i] >= 0 and record["looks"][i] < i - 3)
    assert all(count == 1 for _, count in record["pieces"])  # so that a token's place is its field's
    with opened(browser, path) as page:
        field = page.locator(".t").nth(place)
        tip = page.locator("#tip")
        expect(tip).to_be_hidden()
        field.hover()
        expect(tip).to_be_visible()
        shown = tip.inner_text().replace("\u2212", "-")
        rise = record["reference"][place] - record["base"][place]
        for value in (record["base"][place], record["reference"][place]):
            assert f"{value:.3f}" in shown
        assert f"{rise:+.3f}" in shown
        ranks = [f"{of_model[place]:,}" for of_model in record["ranks"]]
        assert re.search(rf"rank\s+{ranks[0]}\s+{ranks[1]}\b", shown)
        back = place - record["looks"][place]
        assert f"token {place + 1} of {len(record['ids'])}" in shown
        assert re.search(rf"Head 2,5 looks at .*, {back} tokens? back", shown)
        seen = page.evaluate("[...document.querySelectorAll('.t')].findIndex((t) => t.classList.contains('seen'))")
        assert seen == record["looks"][place]
        assert page.locator(".t.seen").evaluate("t => getComputedStyle(t).outlineStyle") == "solid"
        page.mouse.move(2, 2)
        expect(tip).to_be_hidden()
        expect(page.locator(".t.seen")).to_have_count(0)


def test_tokens_are_coloured_by_their_rise(run, browser):
    path = token_page(run, "--doc_id", doc_id_of(run, 4))
    [record] = page_data(path)["documents"]
    with opened(browser, path) as page:
        styles = page.evaluate(
            "[...document.querySelectorAll('.t')].map((t) => [t.className, t.style.getPropertyValue('--a')])"
        )
    for place in range(1, len(record["ids"])):
        rise = record["reference"][place] - record["base"][place]
        names = styles[place][0].split()
        assert ("up" in names, "down" in names) == (rise >= 0.05, rise <= -0.05)
        assert float(styles[place][1] or 0) == pytest.approx(
            0.8 * min(1, abs(rise) / 3) if abs(rise) >= 0.05 else 0, abs=1e-3
        )


def test_the_keyboard_and_a_finger_show_tokens_too(run, browser):
    path = token_page(run, "--doc_id", doc_id_of(run, 4))
    where = "[...document.querySelectorAll('.t')].indexOf(document.activeElement)"
    with opened(browser, path) as page:
        page.keyboard.press("Tab")
        assert page.evaluate(where) == 0
        for key, place in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
            page.keyboard.press(key)
            assert page.evaluate(where) == place
            assert f"token {place + 1} of" in page.locator("#tip").inner_text()
        page.keyboard.press("ArrowDown")
        below = page.evaluate(where)
        assert below > 10
        page.keyboard.press("ArrowUp")
        assert page.evaluate(where) < below
        page.keyboard.press("Escape")
        expect(page.locator("#tip")).to_be_hidden()
        page.locator(".rises button").first.click()
        expect(page.locator("#tip")).to_be_visible()
    with opened(browser, path, has_touch=True) as page:
        page.locator(".t").nth(5).tap()
        assert "token 6 of" in page.locator("#tip").inner_text()
        page.locator("h1").tap()
        expect(page.locator("#tip")).to_be_hidden()


def test_documents_are_shown_as_the_text_they_are(run, browser):
    path = token_page(run, "--doc_id", *(doc_id_of(run, number) for number in range(4)))
    tokenizer = load_tokenizer("base")
    with opened(browser, path) as page:
        for number in range(4):
            wanted = visible(tokenizer.decode(ids_of(run, tokenizer, TEXTS[number])))
            assert text_of(page, number) == wanted
        assert page.locator("main script, main img").count() == 0
        last = page.locator("article").nth(3)
        expect(last).to_contain_text("Not scored")
        assert last.locator(".up, .down").count() == 0
        smile = page.locator("article").nth(2).locator(".t", has_text="🙂")
        assert smile.text_content() == "🙂"
        smile.hover()
        assert re.search(r"part 1 of \d", page.locator("#tip").inner_text())


@pytest.mark.parametrize("kind", ["tokens", "report"])
def test_pages_are_dark_where_the_system_is(run, browser, kind):
    path = token_page(run, "--doc_id", doc_id_of(run, 4)) if kind == "tokens" else report_page()
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    shades = {}
    for scheme in ("light", "dark"):
        with opened(browser, path, color_scheme=scheme) as page:
            shades[scheme] = page.evaluate(ground)
            if kind == "report":
                shades[scheme + " picture"] = page.locator("figure img").first.evaluate("image => image.currentSrc")
    assert min(shades["light"]) > 200
    assert max(shades["dark"]) < 60
    if kind == "report":
        assert shades["light picture"] != shades["dark picture"]


@pytest.mark.parametrize("kind", ["tokens", "report"])
def test_a_phone_never_scrolls_a_page_sideways(run, browser, kind):
    documents = [doc_id_of(run, number) for number in range(5)]
    path = token_page(run, "--doc_id", *documents) if kind == "tokens" else report_page()
    with opened(browser, path) as page:
        page.set_viewport_size({"width": 360, "height": 740})
        opener = page.locator(".opener" if kind == "report" else ".rises button").first
        opener.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_ends_of_each_domain_have_headings_and_a_table_of_contents(run, browser):
    flags = "--scores data/ai_scores.parquet --top 2 --bottom 1".split()
    path = token_page(run, *flags)
    table = pd.read_parquet("data/ai_scores.parquet").sort_values("AI_Score", ascending=False)
    wanted = []
    for domain in ("domain a", "domain b"):
        ids = table["doc_id"][table["domain"] == domain].tolist()
        wanted += [("Best of " + domain, ids[0]), ("Best of " + domain, ids[1]), ("Lowest of " + domain, ids[-1])]
    with opened(browser, path) as page:
        articles = page.locator("article")
        heads, ids = (page.locator(f"article > {name}").all_text_contents() for name in ("h3", ".mono"))
        assert list(zip(heads, ids, strict=True)) == wanted
        links = page.locator("#contents a")
        assert [link.get_attribute("title") for link in links.all()] == [doc_id for _, doc_id in wanted]
        links.nth(4).click()
        expect(articles.nth(4)).to_be_in_viewport()


def test_without_a_record_the_page_says_that_looks_are_not_shown(run, browser, tmp_path):
    shutil.copytree("reference-model", tmp_path / "bare")
    (tmp_path / "bare/attention_influence.json").unlink()
    bare = ["--reference_model", str(tmp_path / "bare"), "--doc_id", doc_id_of(run, 4)]
    with opened(browser, token_page(run, *bare)) as page:
        expect(page.locator("#no-head")).to_contain_text("--head LAYER,HEAD")
        page.locator(".t").nth(20).hover()
        assert "looks at" not in page.locator("#tip").inner_text()
    path = token_page(run, *bare, "--head", "3,1")
    with opened(browser, path) as page:
        expect(page.locator("#no-head")).to_be_hidden()
        page.locator(".t").nth(20).hover()
        assert "Head 3,1 looks at" in page.locator("#tip").inner_text()


def test_a_page_replaces_an_older_one_whole(run, monkeypatch):
    (run / "old.html").write_text("old")
    before = (run / "old.html").read_text()
    monkeypatch.setattr(validate_docs, "document_record", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        token_page(run, "--doc_id", doc_id_of(run, 4), out="old.html")
    assert (run / "old.html").read_text() == before
    monkeypatch.undo()
    monkeypatch.chdir(run)
    token_page(run, "--doc_id", doc_id_of(run, 4), out="old.html")
    assert (run / "old.html").read_text().startswith("<!doctype html>")


# The report


def report_page(*flags, out="data/report.html"):
    report.main(["--base_model", "base", "--out", out, *flags])
    return Path(out).resolve()


def column(page, number):
    return page.locator(f"#list tr.row td:nth-child({number})").all_inner_texts()


def test_the_list_sorts_filters_and_searches(run, browser, capsys):
    path = report_page()
    assert capsys.readouterr().out.endswith("wrote data/report.html; open it in a browser\n")
    table, top = pd.read_parquet("data/ai_scores.parquet"), pd.read_parquet("data/top20.parquet")
    scores = table["AI_Score"].map("{:.4f}".format).str.replace("-", "\u2212").tolist()
    by_score = table["AI_Score"].argsort()
    with opened(browser, path) as page:
        head = page.locator("#list thead button")
        assert column(page, 2) == [scores[i] for i in by_score[::-1]]
        head.nth(1).click()
        assert column(page, 2) == [scores[i] for i in by_score]
        assert page.locator("#list th").nth(1).get_attribute("aria-sort") == "ascending"
        head.nth(5).focus()
        page.keyboard.press("Enter")
        lengths = sorted(table["num_tokens"], reverse=True)
        assert [int(text.replace(",", "")) for text in column(page, 6)] == lengths
        page.keyboard.press("Enter")
        assert [int(text.replace(",", "")) for text in column(page, 6)] == lengths[::-1]
        page.locator("#search").fill("NUMBER 17")
        expect(page.locator("#list tr.row")).to_have_count(1)
        expect(page.locator("#count")).to_have_text(f"1 of {len(table)} documents")
        page.locator("#search").fill("site2.example")
        expect(page.locator("#list tr.row")).to_have_count(sum("Site2" in url for url in URLS))
        page.locator("#search").fill("")
        page.locator("#domain").select_option(label="domain b")
        expect(page.locator("#list tr.row")).to_have_count(DOMAINS.count("domain b"))
        page.locator("#chosen").select_option("yes")
        expect(page.locator("#list tr.row")).to_have_count(int((top["domain"] == "domain b").sum()))
        assert set(column(page, 3)) == {"✓ yes"}
        page.locator("#chosen").select_option("no")
        assert set(column(page, 3)) == {""}


def test_a_document_opens_with_its_exact_text(run, browser):
    tokenizer = load_tokenizer("base")
    with opened(browser, report_page()) as page:
        for number in range(4):
            page.locator("#search").fill(doc_id_of(run, number))
            page.wait_for_function("number => state.order.length === 1 && state.order[0] === number", arg=number)
            assert page.locator(".text").count() == 0
            if number % 2:
                page.locator("#list tr.row td").nth(1).click()
            else:
                page.locator("#list .opener").press("Enter")
            text = visible(tokenizer.decode(tokenizer.encode(TEXTS[number])))
            assert page.locator(".text").text_content() == text
            detail = page.locator("tr.detail")
            expect(detail).to_contain_text(f"part{number % 4}/doc{number}")
            assert detail.locator("a").count() == (number > 0)  # a javascript: URL is no link
            expect(detail).to_contain_text(URLS[number])
            page.locator("#list .opener").click()
            expect(page.locator(".text")).to_have_count(0)


def test_a_selection_of_the_lowest_ends_with_its_highest(run):
    rank_scores.main("--scores data/ai_scores.parquet --bottom_pct 20 --max_repetition 1 --dedup none".split())
    data = page_data(report_page("--selection", "data/bottom20.parquet"))
    highest = pd.read_parquet("data/bottom20.parquet").groupby("domain")["AI_Score"].max()
    for name, *_, threshold, _ in data["thresholds"]:
        assert threshold == pytest.approx(highest[name], rel=1e-6)


def test_facts_thresholds_and_sources_are_those_of_the_tables(run, browser):
    path = report_page(out="data/plain.html")
    table, top = pd.read_parquet("data/ai_scores.parquet"), pd.read_parquet("data/top20.parquet")
    data = page_data(path)
    for line in data["thresholds"]:
        rows, taken = (t[t["domain"] == line[0]] for t in (table, top))
        assert line[1:5] == [len(rows), rows["num_tokens"].sum(), pytest.approx(rows["AI_Score"].mean()), len(taken)]
        assert line[5:] == pytest.approx(
            [taken["AI_Score"].min(), taken["num_tokens"].sum() / rows["num_tokens"].sum()]
        )
    table["source"] = ["part0", *(f"site{i % 3}.example" for i in range(1, len(table)))]
    for record in data["sources"]:
        rows = table[table["domain"] == record["domain"]].sort_values("AI_Score", ascending=False)
        end = -(-len(rows) // 5)
        for name, count, *shares in record["rows"]:
            parts = (rows, rows[:end], rows[-end:])
            assert count == (rows["source"] == name).sum()
            assert shares == pytest.approx([(part["source"] == name).mean() for part in parts])
    assert any("no data/ai_scores.json" in note for note in data["notes"])
    assert ["mask", "uniform"] in data["facts"]
    assert data["guards"] == []
    record = {
        "base_model": "the base",
        "num_documents": 1234,
        "data": ["shards/*.bin"],
        "seq_len": 4096,
        "scoring": {"seconds": 3725.0},
        "versions": {"torch": "2.11.0"},
    }
    (run / "data/ai_scores.json").write_text(json.dumps(record))
    try:
        with opened(browser, report_page(out="data/facts.html")) as page:
            for text in ("the base", "4,096 tokens", "1 h 2 min", "torch 2.11.0", "2,5"):
                expect(page.locator("#facts")).to_contain_text(text)
            assert page.locator("figure img").count() == 2
            assert page.locator("figure img").first.evaluate("image => image.naturalWidth") > 200
    finally:
        (run / "data/ai_scores.json").unlink()


def test_the_guards_are_shown_where_a_table_has_them(run, browser, tmp_path):
    table = pd.read_parquet("data/ai_scores.parquet")
    count = len(table)
    table["repetition"], table["longest_run"] = np.linspace(0, 1, count), np.arange(count)
    table["duplicate_of"] = ["", table["doc_id"][0], *[""] * (count - 2)]
    for suffix in ("parquet", "tsv"):
        path = tmp_path / f"guarded.{suffix}"
        if suffix == "tsv":
            table.to_csv(path, sep="\t", index=False)
        else:
            table.to_parquet(path, index=False)
        with opened(browser, report_page("--scores", str(path), out="data/guarded.html")) as page:
            titles = page.locator("#list thead button").all_inner_texts()
            assert [title.strip() for title in titles[-3:]] == ["Repeats", "Run", "Copy"]
            page.locator("#search").fill(table["doc_id"][1])
            expect(page.locator("#list tr.row")).to_have_count(1)
            assert [column(page, place)[0] for place in (9, 10, 11)] == [f"{1 / (count - 1):.3f}", "1", "same"]
            page.locator("#list .opener").click()
            expect(page.locator("tr.detail")).to_contain_text(
                f"duplicate of\n{table['doc_id'][0]}", use_inner_text=True
            )


def test_of_many_documents_the_ends_and_some_of_the_rest_are_listed(run):
    table = pd.read_parquet("data/ai_scores.parquet")
    path = report_page("--max_docs", "12", "--max_chars", "10", out="data/few.html")
    data = page_data(path)
    listed = data["documents"]
    assert len(listed["doc_id"]) == 12
    for domain, rows in table.groupby("domain"):
        shown = [doc_id for doc_id, of in zip(listed["doc_id"], listed["domain"], strict=True) if of == domain]
        ids = rows.sort_values("AI_Score", ascending=False)["doc_id"].tolist()
        assert len(shown) == 6
        assert {*ids[:2], *ids[-2:]} < set(shown)
    assert any("12 of 45 documents are listed" in note for note in data["notes"])
    assert all(len(text) <= 10 for text in listed["text"])
    again = page_data(report_page("--max_docs", "12", "--max_chars", "10", out="data/few.html"))
    assert again["documents"] == listed


def test_a_report_of_5000_documents_opens_within_a_second_or_so(tmp_path, browser, pair_folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, reference = pair_folders["no BOS"]
    shutil.copytree(base, "base")
    shutil.copytree(reference, "reference-model")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(SENTENCES, 24)) for _ in range(5000)]
    write_corpus(
        tmp_path, texts, "base", [f"domain {i % 5}" for i in range(5000)], ["https://x.example/"] * 5000, 10**7
    )
    score_at_random(tmp_path)
    rank_scores.main("--scores data/ai_scores.parquet --max_repetition 1 --dedup none".split())
    write_scores("data/retrieval_heads.tsv", rng.random((4, 8)), HEADS)
    path = report_page()
    with opened(browser, path) as page:
        drawn = float(page.evaluate("document.documentElement.dataset.drawn"))
        assert page.locator("#list tr.row").count() == 100
        size = path.stat().st_size / 2**20
        print(f"5,000 documents, {size:.1f} MB: first rows after {drawn:.0f} ms")
        assert drawn < 3000
        page.locator("#more").click()
        assert page.locator("#list tr.row").count() == 200
        taken = page.evaluate("() => { const from = performance.now(); refresh(); return performance.now() - from; }")
        assert taken < 1000
    assert size > 6


def test_sources_are_hosts_or_the_beginning_of_ids():
    index = pa.table(
        {
            "url": ["https://User@News.Example:80/a?b", "", "", "", None, "not a url"],
            "id": ["1", "torch/fx/proxy.py:5", "mail:77", "lone", None, ""],
        },
        schema=pa.schema([("url", pa.string()), ("id", pa.string())]),
    )
    assert source_names(index).to_pylist() == ["news.example", "torch", "mail", "lone", "", ""]


def test_heads_come_back_as_they_were_written(tmp_path):
    scores = np.random.default_rng(0).random((3, 5)).round(6)
    write_scores(tmp_path / "heads.tsv", scores, [(1, 2), (0, 4)])
    found, chosen = read_scores(tmp_path / "heads.tsv")
    assert np.array_equal(found, scores)
    assert chosen == sorted([(1, 2), (0, 4)], key=lambda head: -scores[head])


@pytest.mark.parametrize(
    ("counts", "limit", "wanted"),
    [([10, 2, 10], 12, [5, 2, 5]), ([1, 1], 9, [1, 1]), ([5, 5, 5], 2, [0, 1, 1]), ([7], 3, [3])],
)
def test_places_are_shared_evenly(counts, limit, wanted):
    assert evenly(counts, limit) == wanted


# Bad input

SHOW = [validate_docs, *"--base_model base --seq_len 16".split()]
REPORT = [report, *"--base_model base --out new.html".split()]
BAD_INPUT = {
    "a page of nothing": ([*SHOW, "--html", "new.html"], ["--doc_id", "--scores"]),
    "a page of no ends": (
        [*SHOW, *"--html new.html --scores data/ai_scores.parquet --top 0 --bottom 0".split()],
        ["--top 0 --bottom 0"],
    ),
    "a page over a folder": ([*SHOW, "--html", "folder.html", "--doc_id", "ID"], ["folder.html", "folder"]),
    "a page of another name": ([*SHOW, "--html", "data/ai_scores.parquet", "--doc_id", "ID"], ["ends with .html"]),
    "a head without a page": ([*SHOW, "--head", "1,2", "--doc_id", "ID"], ["--head", "--html"]),
    "half a head": ([*SHOW, *"--html new.html --head 5 --doc_id ID".split()], ["--head", "'5'", "layer,head"]),
    "a head of no layer": ([*SHOW, *"--html new.html --head 4,0 --doc_id ID".split()], ["--head 4,0", "4 layers of 8"]),
    "a head below 0": ([*SHOW, *"--html new.html --head=-1,0 --doc_id ID".split()], ["--head -1,0"]),
    "a document elsewhere": (
        [*SHOW, *"--html new.html --data_dir other --doc_id ID".split()],
        ["leads outside of other", "--data_dir"],
    ),
    "no scores to report": ([*REPORT, "--scores", "gone.parquet"], ["gone.parquet", "no such file"]),
    "no selection": ([*REPORT, "--selection", "gone.parquet"], ["gone.parquet", "no such file"]),
    "a selection of more": ([*REPORT, "--selection", "more.parquet"], ["more.parquet", "46 documents"]),
    "a selection of another table": ([*REPORT, "--selection", "moved.parquet"], ["moved.parquet", "another table"]),
    "no heads": ([*REPORT, "--retrieval_heads", "gone.tsv"], ["gone.tsv", "compute_retrieval_heads.py"]),
    "a table of no heads": ([*REPORT, "--retrieval_heads", "headers.tsv"], ["headers.tsv", "no heads"]),
    "heads of another table": ([*REPORT, "--retrieval_heads", "data/top20.tsv"], ["data/top20.tsv", "head"]),
    "documents elsewhere": ([*REPORT, "--data_dir", "other"], ["leads outside of other", "--data_dir"]),
    "shards that are gone": ([*REPORT, "--scores", "moved.parquet"], ["data/gone/x.bin", "no such file"]),
    "another tokenizer": ([*REPORT, "--tokenizer", "BOS"], ["tokenizer"]),
    "a report over a folder": ([*REPORT[:-1], "folder.html"], ["folder.html", "folder"]),
    "a report of another name": ([*REPORT[:-1], "data/top20.parquet"], ["ends with .html"]),
    "no document": ([*REPORT, "--max_docs", "0"], ["--max_docs"]),
    "a record of something else": ([*REPORT, "--scores", "odd.parquet"], ["odd.json", "record of a scoring run"]),
    "a record that is not JSON": ([*REPORT, "--scores", "torn.parquet"], ["torn.json", "not JSON"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_no_page(case, run, spm_folder, capsys):
    (script, *flags), wanted = BAD_INPUT[case]
    (run / "folder.html/full").mkdir(parents=True, exist_ok=True)
    table = pd.read_parquet("data/ai_scores.parquet")
    table.assign(doc_id="data/gone/x:0-5").to_parquet("moved.parquet")
    pd.concat([table, table.head(1)]).assign(domain="domain a").to_parquet("more.parquet")
    Path("headers.tsv").write_text("layer\thead\tretrieval_score\tselected\n")
    for name, text in (("odd", '{"scoring": {"seconds": "long"}}'), ("torn", "{")):
        table.to_parquet(f"{name}.parquet")
        Path(f"{name}.json").write_text(text)
    names = {"ID": table["doc_id"][4], "BOS": spm_folder}
    line = error_of(script, [names.get(flag, flag) for flag in flags], capsys)
    for text in wanted:
        assert text in line
    assert not (run / "new.html").exists()
