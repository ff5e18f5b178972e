"""The columns of the score table, of its parts, of a selection, and of the table of steps.

`ai_scores.parquet` is the product and `ai_scores.tsv` has the same rows to read:

    doc_id                                         domain  num_tokens  L_base    L_ref     AI_Score  repetition  …
    data/finewebsample/fineweb_train_000001:0-221  plays   221         2.881231  3.681338  0.277696  0.3091   …

After AI_Score come the same losses and score without copies, L_base_novel to AI_Score_novel; scored_tokens, how many
tokens the losses are the means of; and what comes from guards.py: repetition, longest_run, compression, and two
doc_ids: the document that represents all that equal this one, and the one that represents all near copies; empty for a
document that represents itself. Tables of other programs may lack these columns; then they are read as nulls.

To add a column: a field here; its value in `common.scoring.run.row_of`, or for a measure in guards.py; and its merge
in merging.py if it needs one.
"""

import pyarrow as pa

from common.table.guards import KEY_BYTES

SCORES = [("L_base", pa.float64()), ("L_ref", pa.float64()), ("AI_Score", pa.float64())]
SCHEMA = pa.schema([("doc_id", pa.string()), ("domain", pa.string()), ("num_tokens", pa.int64()), *SCORES])
# The same without copies: over the tokens that do not end an n-gram which the document held before.
NOVEL_SUFFIX = "_novel"
NOVEL = [(f"{name}{NOVEL_SUFFIX}", kind) for name, kind in SCORES]
MEASURES = [
    ("scored_tokens", pa.int64()),
    ("repetition", pa.float64()),
    ("longest_run", pa.int64()),
    ("compression", pa.float64()),
]
EXACT, NEAR = "duplicate_of", "near_duplicate_of"
NO_DOMAIN = "(no domain)"  # how pages and prints show the empty domain
OTHER_MEASURES = [
    NOVEL[-1][0],
    *(name for name, _ in MEASURES),
    EXACT,
    NEAR,
]  # that pages show beside a document's score

TABLE_SCHEMA = pa.schema([*SCHEMA, *NOVEL, *MEASURES, (EXACT, pa.string()), (NEAR, pa.string())])
# Where a document was read: its source's own id, its URL, the file and the row in it, and a hash of its text.
SOURCE = pa.schema(
    [("id", pa.string()), ("url", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("text_hash", pa.uint64())]
)
# A selection: also the place of each document, `shard` (its `.bin` file) and its first and last + 1 token.
SLICES = pa.schema([("shard", pa.string()), ("start", pa.int64()), ("end", pa.int64())])
# What became of each row of a ranked table; `state` is one of STATES, or null without a finite score.
RANKED, LEFT_OUT = ["selected", "not selected"], ["filtered", "repetitive", "duplicates"]
STATES = [*RANKED, *LEFT_OUT]
RANK_SCORE = "rank_score"  # what was ranked by, if it was another score than AI_Score
STATES_SCHEMA = pa.schema([("doc_id", pa.string()), ("domain", pa.string()), SCORES[-1], ("state", pa.string())])
STEPS_SCHEMA = pa.schema([*SCHEMA, ("document", pa.string()), ("step", pa.int64())])
# A part: its steps count tokens from the first token of their document, and `keys` find the copies.
_STEPS = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), *SCORES]))
PART_SCHEMA = pa.schema([*SCHEMA, *NOVEL, *MEASURES, ("keys", pa.binary(KEY_BYTES)), ("steps", _STEPS)])


def states_schema(has_rank_score: bool) -> pa.Schema:
    """The columns of the states of a selection."""
    return pa.schema([*STATES_SCHEMA, (RANK_SCORE, pa.float64())]) if has_rank_score else STATES_SCHEMA
