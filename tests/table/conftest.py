"""A score table of given rows."""

import pyarrow as pa

from common.table.schema import SCHEMA


def table(rows):
    """Rows of (domain, num_tokens, AI_Score), documents laid end to end."""
    start, out = 0, []
    for domain, num_tokens, ai_score in rows:
        out.append(
            (f"data/x_000001:{start}-{start + num_tokens}", domain, num_tokens, 2.0, 2.0 + 2 * ai_score, ai_score)
        )
        start += num_tokens
    return pa.table([list(column) for column in zip(*out, strict=True)], schema=SCHEMA)
