"""Where documents come from."""

import pyarrow as pa

from common.pages.origins import source_names


def test_sources_are_hosts_or_the_beginning_of_ids():
    index = pa.table(
        {
            "url": ["https://User@News.Example:80/a?b", "", "", "", None, "not a url"],
            "id": ["1", "torch/fx/proxy.py:5", "mail:77", "lone", None, ""],
        },
        schema=pa.schema([("url", pa.string()), ("id", pa.string())]),
    )
    assert source_names(index).to_pylist() == ["news.example", "torch", "mail", "lone", "", ""]
