"""A page's data."""

import json

from common.pages.page import embedded


def test_json_in_a_page_cannot_end_its_element_and_keeps_every_character():
    record = {"a": "</script><!--\u2028\x00\r\n{{style}}", "b": "half \udc80"}
    text = embedded(record)
    assert "<" not in text
    assert json.loads(text) == record
