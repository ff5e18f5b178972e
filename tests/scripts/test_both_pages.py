"""The page of tokens and the report: dark where the system is, and never wider than a phone."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.scripts.conftest import doc_id_of, opened, report_page, token_page


@pytest.mark.parametrize("kind", ["tokens", "report"])
def test_pages_are_dark_where_the_system_is(site, browser, kind):
    path = token_page("--doc_id", doc_id_of(4)) if kind == "tokens" else report_page()
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    shades = {}
    for scheme in ("light", "dark"):
        with opened(browser, path, color_scheme=scheme) as page:
            shades[scheme] = page.evaluate(ground)
            for number, picture in enumerate(page.locator("figure img").all()):
                shades[scheme, number] = np.asarray(Image.open(io.BytesIO(picture.screenshot())).convert("L"))
    assert min(shades["light"]) > 200
    assert max(shades["dark"]) < 60
    for number in range(2 if kind == "report" else 0):  # a picture's ground, and its labels
        for scheme in ("light", "dark"):
            assert shades[scheme, number][0, 0] == pytest.approx(np.mean(shades[scheme]), abs=1.5)
        assert shades["light", number].min() < 70 and shades["dark", number].max() > 190


@pytest.mark.parametrize("kind", ["tokens", "report"])
def test_a_phone_never_scrolls_a_page_sideways(site, browser, kind):
    documents = [doc_id_of(number) for number in range(5)]
    path = token_page("--doc_id", *documents) if kind == "tokens" else report_page()
    with opened(browser, path) as page:
        page.set_viewport_size({"width": 360, "height": 740})
        opener = page.locator(".opener" if kind == "report" else ".rises button").first
        opener.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
