"""report.py shows what ranking decided, whether the model is good enough, and how to see a document's tokens."""

import json
import shlex

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect

import rank_scores
import validate_docs
from tests.scripts.conftest import doc_id_of, opened, page_data, report_page
from tests.scripts.test_report import column


def test_the_list_opens_on_what_was_selected_domain_by_domain(guarded, browser):
    folder, best = guarded
    flags = f"--scores {folder}/ai_scores.parquet --selection {folder}/top20.parquet"
    with opened(browser, report_page(*flags.split(), out="data/guarded.html")) as page:
        top = pd.read_parquet(folder / "top20.parquet")
        order = page.evaluate("state.order.map((i) => documents.doc_id[i])")
        assert order == top["doc_id"].tolist()
        assert not set(best["doc_id"][:2]) & set(order)
        assert page.locator("#list .group").all_inner_texts() == ["domain a", "domain b"]
        page.locator("#state").select_option("")
        page.locator("#search").fill(best["doc_id"].iloc[0])
        expect(page.locator("#list tr.row")).to_have_count(1)
        assert column(page, 3) == ["repetitive"]
        page.locator("#list .opener").click()
        expect(page.locator("tr.detail")).to_contain_text("left out: repetitive")
        page.locator("#search").fill(best["doc_id"].iloc[1])
        expect(page.locator("#list tr.row td:nth-child(3)")).to_have_text("copy")
        assert page.locator("#totals").inner_text().split("\n") == [
            *("45", "documents", f"{best['num_tokens'].sum() + page_tokens(folder, 'domain b'):,}", "tokens"),
            *("2", "domains", "2", "left out", str(len(top)), "selected"),
        ]


def page_tokens(folder, domain):
    table = pd.read_parquet(folder / "ai_scores.parquet")
    return table["num_tokens"][table["domain"] == domain].sum()


def test_the_page_counts_what_the_terminal_counts(guarded, capsys):
    folder, _ = guarded
    rank_scores.main(["--scores", f"{folder}/ai_scores.parquet", "--out", f"{folder}/top20.tsv"])
    printed = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("domain ")][1:]
    flags = f"--scores {folder}/ai_scores.parquet --selection {folder}/top20.parquet"
    data = page_data(report_page(*flags.split(), out="data/guarded.html"))
    shown = []
    for line in data["thresholds"]:
        counts = (line["left_out"], line["documents"])
        scores = (f"{line[name]:.4f}" for name in ("mean_score", "threshold"))
        share = f"{line['share_of_tokens']:.1%}"
        row = [*map(str, counts), f"{line['tokens']:,}", *scores, str(line["selected_documents"]), share]
        shown.append([*line["domain"].split(), *row])
    of_domains = printed[: len(shown)]  # the other table says what the score goes with
    assert [[*row[:2], str(int(row[2]) + int(row[3])), *row[4:]] for row in of_domains] == shown
    correlations = [
        line[name][what] for line in data["goes_with"] for name in ("L_base", "repetition") for what in line[name]
    ]
    written = [cell for row in printed[len(shown) + 1 :] for cell in (*row[2:5], *row[8:11])]
    assert written == [
        "-" if c is None else f"{c:.0%}" if n % 3 == 2 else f"{c:+.2f}" for n, c in enumerate(correlations)
    ]
    assert [record["documents"] for record in data["sources"]] == [line["documents"] for line in data["thresholds"]]


def test_pages_show_by_what_documents_were_chosen(site, browser, tmp_path, capsys):
    table = pd.read_parquet("data/ai_scores.parquet").assign(edu=np.arange(45.0), repetition=0.1)
    table.loc[7, "edu"] = np.nan
    table.to_parquet(tmp_path / "ai_scores.parquet", index=False)
    choice = "--score pct(edu)+0*AI_Score --where num_tokens>12 --within num_tokens:2 --dedup none"
    rank_scores.main([*f"--scores {tmp_path}/ai_scores.parquet".split(), *choice.split()])
    flags = f"--scores {tmp_path}/ai_scores.parquet --selection {tmp_path}/top20.parquet"
    path, top = report_page(*flags.split(), out="data/chosen.html"), pd.read_parquet(tmp_path / "top20.parquet")
    facts, data = dict(page_data(path)["facts"]), page_data(path)
    assert facts["selected"] == "the best 20 % of the documents of each domain"
    assert facts["ranked by"] == "pct(edu)+0*AI_Score"
    assert facts["where"] == "num_tokens>12"
    assert facts["inside"] == "each of 2 groups by num_tokens"
    states = pd.Series(data["documents"]["state"], data["documents"]["doc_id"])
    assert set(states.index[states == "filtered"]) == set(table["doc_id"][table["num_tokens"] <= 12])
    assert table["doc_id"][7] not in states.index
    for line in data["thresholds"]:
        assert line["threshold"] == pytest.approx(top["rank_score"][top["domain"] == line["domain"]].min())
    with opened(browser, path) as page:
        assert page.evaluate("state.order.map((i) => documents.doc_id[i])") == top["doc_id"].tolist()
        page.locator("#state").select_option("")
        page.locator("#search").fill(states.index[states == "filtered"][0])
        expect(page.locator("#list tr.row")).to_have_count(1)
        assert column(page, 4) == ["filtered"]
    capsys.readouterr()
    validate_docs.main(f"--base_model base {flags} --top 1 --bottom 0".split())
    shown = capsys.readouterr().out
    assert "(selected: the best 20 %" in shown
    assert "where: num_tokens>12" in shown
    for _, rows in top.groupby("domain"):
        assert f"best   {rows['rank_score'].iloc[0]:8.4f}  {rows['doc_id'].iloc[0]}" in shown


def test_an_opened_document_offers_the_whole_command_of_its_page_of_tokens(site, browser):
    (site / "data/ai_scores.json").write_text(json.dumps({"seq_len": 16, "score_separator": False}))
    try:
        path = report_page("--data_dir", "data", out="data/command.html")
    finally:
        (site / "data/ai_scores.json").unlink()
    with opened(browser, path) as page:
        page.locator("#state").select_option("")
        page.locator("#search").fill(doc_id_of(5))
        expect(page.locator("#list tr.row")).to_have_count(1)
        page.locator("#list .opener").click()
        command = page.locator(".detail .command").inner_text()
    assert command == (
        "python validate_docs.py --base_model base --reference_model reference-model --seq_len 16 "
        f"--score_separator no --data_dir data --html data/tokens.html --doc_id {doc_id_of(5)}"
    )
    validate_docs.main(shlex.split(command)[2:])
    [document] = page_data(site / "data/tokens.html")["documents"]
    assert document["doc_id"] == doc_id_of(5)


def test_the_first_screen_says_whether_the_model_is_good_enough(site, browser):
    check = site / "reference-model/causal_check.json"
    with opened(browser, report_page(out="data/unchecked.html")) as page:
        expect(page.locator("#verdict")).to_have_text(
            "Not known: there is no reference-model/causal_check.json. To measure it:"
        )
        assert page.locator(".first .command").inner_text() == (
            "python make_reference_model.py --base_model base --retrieval_heads data/retrieval_heads.txt "
            "--mask uniform --probes data/probes.jsonl --out reference-model"
        )
    check.write_text(json.dumps({"probes": 8, "base": 0.96, "masked": 0.33, "random": [0.6, 0.9, 0.95]}))
    try:
        path = report_page(out="data/checked.html")
    finally:
        check.unlink()
    for width, height in ((390, 844), (1280, 800)):
        with opened(browser, path) as page:
            page.set_viewport_size({"width": width, "height": height})
            expect(page.locator("#verdict")).to_contain_text("Yes: the model copies")
            for text in ("96.0 %", "33.0 %", "90.0 %"):
                expect(page.locator("#shares")).to_contain_text(text)
            places = [page.locator(name).bounding_box() for name in ("#verdict", "#rule", "#thresholds", "#facts")]
            assert places[0]["y"] + places[0]["height"] < height
            if width == 390:
                assert [box["y"] for box in places] == sorted(box["y"] for box in places)
            else:
                assert places[3]["x"] > width / 2
                assert places[3]["y"] < height / 2
