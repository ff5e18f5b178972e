"""rank_scores.py and the pages: many domains, small ones, and domains with odd names."""

import json
import re
from pathlib import Path
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest

import rank_scores
import validate_docs
from tests.conftest import ROOT, error_of
from tests.scripts.conftest import page_data, report_page

PLAIN = "--scores s.parquet --out top.tsv --max_repetition 1 --dedup none".split()
ODD = ["NA", "null", "nan", "None", "", "007", "1e5", 'a "quoted" one']


@pytest.fixture
def ranked(tmp_path, monkeypatch, capsys):
    """Rank documents of given domains; returns the lines that are printed."""
    monkeypatch.chdir(tmp_path)

    def rank(domains, *flags, num_tokens=10):
        save(domains, num_tokens)
        capsys.readouterr()
        rank_scores.main([*PLAIN, *flags])
        return capsys.readouterr().out.splitlines()

    return rank


def save(domains, num_tokens=10):
    """A table of documents of these domains, the best first."""
    table = pd.DataFrame({"doc_id": [f"x:{i}-{i + 1}" for i in range(len(domains))], "domain": domains})
    table = table.assign(num_tokens=num_tokens, L_base=1.0, L_ref=2.0, AI_Score=np.linspace(1, 0, len(domains)))
    table.to_parquet("s.parquet", index=False)


def test_rounding_up_in_small_domains_is_said_with_its_figures(ranked):
    domains = [f"d{i % 30}" for i in range(90)]
    [warning] = [line for line in ranked(domains) if "rounded up" in line]
    assert "20 % of the documents" in warning
    assert "30 of 90 documents (33.3%), in 30 domains; fewer, larger domains" in warning
    [warning] = [line for line in ranked(domains, "--by", "tokens", num_tokens=[1000] + [10] * 89) if "rounded" in line]
    assert "1,290 of 1,890 tokens (68.3%)" in warning


@pytest.mark.parametrize("flags", [[], ["--by", "tokens"], ["--bottom_pct", "20"]])
def test_rounding_up_of_a_tenth_is_not_said(ranked, flags):
    assert not [line for line in ranked(["a"] * 50 + ["b"] * 50, *flags) if "rounded" in line]
    assert not [line for line in ranked(["a"] * 46 + ["b"] * 54, *flags) if "rounded" in line]  # 21 of 100


def test_a_table_whose_documents_are_domains_of_their_own_is_refused(ranked, capsys):
    assert any("10 of 19 documents" in line for line in ranked([f"d{i % 10}" for i in range(19)]))
    assert any("10 of 20 documents" in line for line in ranked([f"d{i % 10}" for i in range(20)]))
    save([f"https://site{i % 11:02}.example/page" for i in range(20)])
    line = error_of(rank_scores, PLAIN, capsys)
    assert "s.parquet: 20 documents in 11 domains ('https://site00.example/page', " in line
    assert "and 5 more)" in line
    assert "column `domain`" in line


def test_of_many_domains_the_largest_have_a_line_and_the_others_one_together(ranked):
    domains = [f"d{i:04}" for i in range(1000) for _ in range(2 + (i % 40 == 0))]
    lines = ranked(domains)
    start = next(place for place, line in enumerate(lines) if line.startswith("domain"))
    assert [line.split()[0] for line in lines[start + 1 : start + 25]] == [f"d{i:04}" for i in range(0, 960, 40)]
    rest = re.sub(r" {2,}", "|", lines[start + 25])
    assert rest == "… and 976 smaller domains|1,953|19,530|976|50.0%"
    assert len(lines) < 65  # and as many again on what the score goes with
    assert any("top.json" in line for line in lines)
    assert len(json.loads(Path("top.json").read_text())["domains"]) == 1000


def test_domains_with_odd_names_are_text_in_every_table_and_page(site, monkeypatch, capsys):
    table = pd.read_parquet("data/ai_scores.parquet")
    table["domain"] = [ODD[i % len(ODD)] for i in range(len(table))]
    table.to_parquet("odd_names.parquet", index=False)
    table.to_csv("odd_names.tsv", sep="\t", index=False)
    for name in ("odd_names.tsv", "odd_names.parquet"):
        for out in ("chosen.tsv", "again.tsv"):  # `again` from the TSV of the first selection
            scores = name if out == "chosen.tsv" else "chosen.tsv"
            rank_scores.main(f"--scores {scores} --out {out} --max_repetition 1 --dedup none".split())
            assert "(no domain)" in capsys.readouterr().out
            assert list(json.loads(Path(out).with_suffix(".json").read_text())["domains"]) == sorted(ODD)
            assert pd.read_parquet(Path(out).with_suffix(".parquet"))["domain"].unique().tolist() == sorted(ODD)
        for selection in ("chosen.tsv", "chosen.parquet"):
            data = page_data(report_page("--scores", name, "--selection", selection, out="data/odd.html"))
            assert [line["domain"] or "(no domain)" for line in data["sources"]] == [
                line["domain"] for line in data["thresholds"]
            ]
            assert set(data["documents"]["domain"]) == set(ODD)
        validate_docs.main(["--base_model", "base", "--scores", name])
        shown = capsys.readouterr().out
        assert all(f"\n{domain or '(no domain)'}: " in shown for domain in ODD)


def test_the_page_on_formats_says_how_pandas_reads_a_tsv(site, capsys):
    [command] = re.findall(r"( {4}numbers = .*?)\n\n", (ROOT / "docs/formats.md").read_text(), re.S)
    table = pd.read_parquet("data/ai_scores.parquet")
    table["domain"] = [ODD[i % len(ODD)] for i in range(len(table))]
    table = table.assign(repetition=0.1, longest_run=3, compression=0.5, duplicate_of="", near_duplicate_of="")
    table.loc[3, ["L_base", "L_ref", "AI_Score"]] = np.nan
    table.to_parquet("odd_names.parquet", index=False)
    rank_scores.main("--scores odd_names.parquet --out ai_scores.tsv --max_repetition 1 --dedup none".split())
    exec(dedent(command).replace("pd.read_csv", "found = pd.read_csv"), known := {"pd": pd})
    expected = pd.read_parquet("ai_scores.parquet")
    pd.testing.assert_frame_equal(known["found"][expected.columns], expected, rtol=1e-9)
    assert set(expected["domain"]) == set(ODD)


def test_pages_show_the_largest_domains_and_count_the_others(site, monkeypatch, capsys):
    for module in ("table.domains", "pages.facts"):
        monkeypatch.setattr(f"common.{module}.SHOWN", 2)
    table = pd.read_parquet("data/ai_scores.parquet")
    table["domain"] = ["big"] * 20 + ["bigger"] * 21 + ["small"] * 2 + ["tiny"] * (len(table) - 43)
    table.to_parquet("many.parquet", index=False)
    rank_scores.main("--scores many.parquet --out few.tsv --max_repetition 1 --dedup none".split())
    data = page_data(report_page("--scores", "many.parquet", "--selection", "few.parquet", out="data/many.html"))
    assert [line["domain"] for line in data["thresholds"]] == ["big", "bigger", "… and 2 smaller domains"]
    assert data["thresholds"][2]["documents"] == len(table) - 41
    assert [line["domain"] for line in data["sources"]] == ["big", "bigger"]
    assert any("The 2 largest domains are drawn" in note for note in data["notes"])
    capsys.readouterr()
    validate_docs.main("--base_model base --scores many.parquet".split())
    shown = capsys.readouterr().out
    assert re.findall(r"^(\w+): [\d]+ documents", shown, re.M) == ["big", "bigger"]
    assert "… and 2 smaller domains" in shown
