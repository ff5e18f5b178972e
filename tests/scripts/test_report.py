"""report.py: what the report says, how it behaves in a real browser, and bad input."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect

import rank_scores
import report
from common.errors import visible
from common.model.heads import write_head_scores
from common.text.tokenization import load_tokenizer
from tests.conftest import MASKED, SENTENCES
from tests.pages.conftest import TEXTS
from tests.scripts.conftest import (
    DOMAINS,
    URLS,
    doc_id_of,
    opened,
    page_data,
    report_page,
    score_at_random,
    write_corpus,
)


def column(page, number):
    return page.locator(f"#list tr.row td:nth-child({number})").all_inner_texts()


def test_the_list_sorts_filters_and_searches(site, browser, capsys):
    path = report_page()
    assert capsys.readouterr().out.endswith("wrote data/report.html; open it in a browser\n")
    table, top = pd.read_parquet("data/ai_scores.parquet"), pd.read_parquet("data/top20.parquet")
    scores = table["AI_Score"].map("{:.4f}".format).str.replace("-", "\u2212").tolist()
    by_score = table["AI_Score"].argsort()
    with opened(browser, path) as page:
        head = page.locator("#list thead button")
        page.locator("#state").select_option("")
        assert column(page, 2) == [scores[i] for i in np.lexsort((-table["AI_Score"], table["domain"]))]
        head.nth(1).click()
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
        page.locator("#state").select_option("selected")
        expect(page.locator("#list tr.row")).to_have_count(int((top["domain"] == "domain b").sum()))
        assert set(column(page, 3)) == {"✓ selected"}
        page.locator("#state").select_option("not selected")
        assert set(column(page, 3)) == {"below"}


def test_a_document_opens_with_its_exact_text(site, browser):
    tokenizer = load_tokenizer("base")
    with opened(browser, report_page()) as page:
        page.locator("#state").select_option("")
        for number in range(4):
            page.locator("#search").fill(doc_id_of(number))
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


def test_a_selection_of_the_lowest_ends_with_its_highest(site):
    rank_scores.main("--scores data/ai_scores.parquet --bottom_pct 20 --max_repetition 1 --dedup none".split())
    data = page_data(report_page("--selection", "data/bottom20.parquet"))
    highest = pd.read_parquet("data/bottom20.parquet").groupby("domain")["AI_Score"].max()
    for line in data["thresholds"]:
        assert line["threshold"] == pytest.approx(highest[line["domain"]], rel=1e-6)


def test_facts_thresholds_and_sources_are_those_of_the_tables(site, browser):
    path = report_page(out="data/plain.html")
    table, top = pd.read_parquet("data/ai_scores.parquet"), pd.read_parquet("data/top20.parquet")
    data = page_data(path)
    for line in data["thresholds"]:
        rows, taken = (t[t["domain"] == line["domain"]] for t in (table, top))
        assert (line["left_out"], line["documents"], line["tokens"]) == (0, len(rows), rows["num_tokens"].sum())
        assert line["selected_documents"] == len(taken)
        assert line["mean_score"] == pytest.approx(rows["AI_Score"].mean())
        assert line["threshold"] == pytest.approx(taken["AI_Score"].min())
        assert line["share_of_tokens"] == pytest.approx(taken["num_tokens"].sum() / rows["num_tokens"].sum())
    assert data["totals"] == {
        "documents": len(table),
        "tokens": table["num_tokens"].sum(),
        "domains": table["domain"].nunique(),
        "left out": 0,
        "selected": len(top),
    }
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
    (site / "data/ai_scores.json").write_text(json.dumps(record))
    try:
        with opened(browser, report_page(out="data/facts.html")) as page:
            for text in ("the base", "4,096 tokens", "1 h 2 min", "torch 2.11.0", "2,5"):
                expect(page.locator("#facts")).to_contain_text(text)
            assert page.locator("figure img").count() == 2
            assert page.locator("figure img").first.evaluate("image => image.naturalWidth") > 200
    finally:
        (site / "data/ai_scores.json").unlink()


def test_the_guards_are_shown_where_a_table_has_them(site, browser, tmp_path):
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
        with opened(
            browser, report_page("--scores", str(path), "--selection", "data/top20.parquet", out="data/guarded.html")
        ) as page:
            page.locator("#state").select_option("")
            titles = page.locator("#list thead button").all_inner_texts()
            assert [title.strip() for title in titles[-3:]] == ["Repeats", "Run", "Copy"]
            page.locator("#search").fill(table["doc_id"][1])
            expect(page.locator("#list tr.row")).to_have_count(1)
            assert [column(page, place)[0] for place in (9, 10, 11)] == [f"{1 / (count - 1):.3f}", "1", "same"]
            page.locator("#list .opener").click()
            expect(page.locator("tr.detail")).to_contain_text(
                f"duplicate of\n{table['doc_id'][0]}", use_inner_text=True
            )


def test_of_many_documents_the_ends_and_some_of_the_rest_are_listed(site):
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
    base, reference = pair_folders["no BOS"] / "model", pair_folders["no BOS"] / "reference-model"
    shutil.copytree(base, "base")
    shutil.copytree(reference, "reference-model")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(SENTENCES, 24)) for _ in range(5000)]
    write_corpus(
        tmp_path, texts, "base", [f"domain {i % 5}" for i in range(5000)], ["https://x.example/"] * 5000, 10**7
    )
    score_at_random(tmp_path)
    rank_scores.main("--scores data/ai_scores.parquet --max_repetition 1 --dedup none".split())
    write_head_scores("data/retrieval_heads.tsv", rng.random((4, 8)), MASKED)
    path = report_page()
    with opened(browser, path) as page:
        drawn = float(page.evaluate("document.documentElement.dataset.drawn"))
        page.locator("#state").select_option("")
        assert page.locator("#list tr.row").count() == 100
        size = path.stat().st_size / 2**20
        print(f"5,000 documents, {size:.1f} MB: first rows after {drawn:.0f} ms")
        assert drawn < 3000
        page.locator("#more").click()
        assert page.locator("#list tr.row").count() == 200
        taken = page.evaluate("() => { const from = performance.now(); refresh(); return performance.now() - from; }")
        assert taken < 1000
    assert size > 6


REPORT = [report, *"--base_model base --out new.html".split()]


BAD_INPUT = {
    "no scores to report": ([*REPORT, "--scores", "gone.parquet"], ["gone.parquet", "no such file"]),
    "no selection": ([*REPORT, "--selection", "gone.parquet"], ["gone.parquet", "no such file"]),
    "a selection of more": ([*REPORT, "--selection", "more.parquet"], ["more.parquet", "another table"]),
    "a selection of another table": ([*REPORT, "--selection", "moved.parquet"], ["moved.parquet", "another table"]),
    "no heads": ([*REPORT, "--retrieval_heads", "gone.tsv"], ["gone.tsv", "compute_retrieval_heads.py"]),
    "a table of no heads": ([*REPORT, "--retrieval_heads", "headers.tsv"], ["headers.tsv", "no heads"]),
    "heads of another table": ([*REPORT, "--retrieval_heads", "data/top20.tsv"], ["data/top20.tsv", "head"]),
    "documents elsewhere": ([*REPORT, "--data_dir", "other"], ["leads outside of other", "--data_dir"]),
    "shards that are gone": (
        [*REPORT, *"--scores moved_scores.parquet --selection moved.parquet".split()],
        ["data/gone/x.bin", "no such file"],
    ),
    "another tokenizer": ([*REPORT, "--tokenizer", "BOS"], ["tokenizer"]),
    "a report over a folder": ([*REPORT[:-1], "folder.html"], ["folder.html", "folder"]),
    "a report of another name": ([*REPORT[:-1], "data/top20.parquet"], ["ends with .html"]),
    "no document": ([*REPORT, "--max_docs", "0"], ["--max_docs"]),
    "a record of something else": (
        [*REPORT, "--scores", "odd.parquet", "--selection", "data/top20.parquet"],
        ["odd.json", "record of a scoring run"],
    ),
    "a record that is not JSON": ([*REPORT, "--scores", "torn.parquet"], ["torn.json", "not JSON"]),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_no_page(no_page, case):
    no_page(*BAD_INPUT[case])
