"""validate_docs.py --html: the page of tokens in a real browser, and bad input."""

import re
import shutil

import pandas as pd
import pytest
from playwright.sync_api import expect

import validate_docs
from common.errors import visible
from common.pages import inspection
from common.text.tokenization import load_tokenizer
from tests.pages.conftest import TEXTS
from tests.scripts.conftest import doc_id_of, opened, page_data, token_page


def text_of(page, place=0):
    return page.evaluate("place => document.querySelectorAll('.text')[place].textContent", place)


def test_pointing_at_a_token_shows_its_numbers_and_where_the_head_looks(site, browser, capsys):
    path = token_page("--doc_id", doc_id_of(4))
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


def test_tokens_are_coloured_by_their_rise(site, browser):
    path = token_page("--doc_id", doc_id_of(4))
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


def test_the_keyboard_and_a_finger_show_tokens_too(site, browser):
    path = token_page("--doc_id", doc_id_of(4))
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


def test_documents_are_shown_as_the_text_they_are(site, browser):
    path = token_page("--doc_id", *(doc_id_of(number) for number in range(4)))
    tokenizer = load_tokenizer("base")
    with opened(browser, path) as page:
        for number in range(4):
            wanted = visible(tokenizer.decode([*tokenizer.encode(TEXTS[number]), tokenizer.separator_id]))
            assert text_of(page, number) == wanted
        assert page.locator("main script, main img").count() == 0
        last = page.locator("article").nth(3)
        expect(last).to_contain_text("Not scored")
        assert last.locator(".up, .down").count() == 0
        smile = page.locator("article").nth(2).locator(".t", has_text="🙂")
        assert smile.text_content() == "🙂"
        smile.hover()
        assert re.search(r"part 1 of \d", page.locator("#tip").inner_text())


def test_the_ends_of_each_domain_have_headings_and_a_table_of_contents(site, browser):
    flags = "--scores data/ai_scores.parquet --top 2 --bottom 1".split()
    path = token_page(*flags)
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


def test_the_ends_are_of_the_documents_that_were_ranked(guarded, capsys, browser):
    folder, best = guarded
    scores = ["--scores", f"{folder}/ai_scores.parquet", "--top", "1", "--bottom", "0"]
    list_ends = ["--base_model", "base", *scores]
    capsys.readouterr()
    for flags in ([], ["--selection", f"{folder}/top20.tsv"]):
        validate_docs.main([*list_ends, *flags])
        out = capsys.readouterr().out
        assert out.startswith("The best and the lowest of the documents that were ranked for")
        assert f"  {best['doc_id'].iloc[2]}\n" in out
        assert not [doc_id for doc_id in best["doc_id"][:2] if doc_id in out]
    path = token_page(*scores)
    assert page_data(path)["documents"][0]["doc_id"] == best["doc_id"].iloc[2]
    with opened(browser, path) as page:
        expect(page.locator("#note")).to_contain_text("that were ranked for")
    (folder / "top20.json").unlink()
    validate_docs.main(list_ends)
    out = capsys.readouterr().out
    assert "copies and repetitive documents are included" in out.splitlines()[1]
    assert f"  {best['doc_id'].iloc[0]}\n" in out
    assert page_data(token_page(*scores))["documents"][0]["doc_id"] == best["doc_id"].iloc[0]


def test_without_a_record_the_page_says_that_looks_are_not_shown(site, browser, tmp_path):
    shutil.copytree("reference-model", tmp_path / "bare")
    (tmp_path / "bare/attention_influence.json").unlink()
    bare = ["--reference_model", str(tmp_path / "bare"), "--doc_id", doc_id_of(4)]
    with opened(browser, token_page(*bare)) as page:
        expect(page.locator("#no-head")).to_contain_text("--head LAYER,HEAD")
        page.locator(".t").nth(20).hover()
        assert "looks at" not in page.locator("#tip").inner_text()
    path = token_page(*bare, "--head", "3,1")
    with opened(browser, path) as page:
        expect(page.locator("#no-head")).to_be_hidden()
        page.locator(".t").nth(20).hover()
        assert "Head 3,1 looks at" in page.locator("#tip").inner_text()


def test_a_page_replaces_an_older_one_whole(site, monkeypatch):
    (site / "old.html").write_text("old")
    before = (site / "old.html").read_text()
    monkeypatch.setattr(inspection, "document_record", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        token_page("--doc_id", doc_id_of(4), out="old.html")
    assert (site / "old.html").read_text() == before
    monkeypatch.undo()
    monkeypatch.chdir(site)
    token_page("--doc_id", doc_id_of(4), out="old.html")
    assert (site / "old.html").read_text().startswith("<!doctype html>")


SHOW = [validate_docs, *"--base_model base --seq_len 16".split()]


BAD_INPUT = {
    "a page of nothing": ([*SHOW, "--html", "new.html"], ["--doc_id", "--scores"]),
    "a page of no ends": (
        [*SHOW, *"--html new.html --scores data/ai_scores.parquet --top 0 --bottom 0".split()],
        ["--top 0 --bottom 0"],
    ),
    "a page over a folder": ([*SHOW, "--html", "folder.html", "--doc_id", "ID"], ["folder.html", "folder"]),
    "a page of another name": ([*SHOW, "--html", "data/ai_scores.parquet", "--doc_id", "ID"], ["ends with .html"]),
    "ends of a selection of another table": (
        [*SHOW, *"--scores data/ai_scores.parquet --selection moved.parquet --html new.html".split()],
        ["moved.parquet", "another table", "rank_scores.py"],
    ),
    "a head without a page": ([*SHOW, "--head", "1,2", "--doc_id", "ID"], ["--head", "--html"]),
    "half a head": ([*SHOW, *"--html new.html --head 5 --doc_id ID".split()], ["--head", "'5'", "layer,head"]),
    "a head of no layer": (
        [*SHOW, *"--html new.html --head 4,0 --doc_id ID".split()],
        ["--head: head 4,0", "4 layers of 8"],
    ),
    "a head below 0": ([*SHOW, *"--html new.html --head=-1,0 --doc_id ID".split()], ["--head: head -1,0"]),
    "a document elsewhere": (
        [*SHOW, *"--html new.html --data_dir other --doc_id ID".split()],
        ["leads outside of other", "--data_dir"],
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_no_page(no_page, case):
    no_page(*BAD_INPUT[case])
