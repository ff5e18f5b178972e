"""Step 1: make retrieval probes, questions that a model can answer only by copying from its context.

    python generate_retrieval_probes.py
    python generate_retrieval_probes.py --tokenizer data/SmolLM2-135M-Instruct --num_probes 24 --max_tokens 1024
    python generate_retrieval_probes.py --corpus 'notes/*.txt'       heads for a domain of your own

Reads   sentences: of the sample text, or of --corpus (text, JSONL or parquet files, or a data set on the hub)
Writes  data/probes.jsonl, one probe a line, each a JSON object of random keys with sentences as values, three
        demonstrations and a key in question; the answer is that key's value:

        {"id": 0, "prompt": "{\\"q2Xh…\\": \\"The capital lies on the river\\", …}\\nZt8w…\\nRain fell…\\n…\\nq2Xh…\\n",
         "answer": "The capital lies on the river"}
"""

import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from common import cli
from common.files import atomic, refuse_inputs, sole_writer
from common.flags import DEFAULT_MODEL, add_bad_row_flag, add_trust_flag
from common.model.probes import build_probes, usable_sentences, write_probes
from common.text.corpus import BadRows, Columns, SourceDocument, expand, read_files, read_hub
from common.text.sample import sample_sentences, split_sentences
from common.text.tokenization import TextTokenizer, load_tokenizer

MAX_SENTENCES = 100_000


def parse_args(argv: list[str] | None):
    parser = cli.Parser(__doc__)
    parser.add_argument("--tokenizer", default=DEFAULT_MODEL, help="model name or folder")
    parser.add_argument(
        "--corpus", nargs="+", help="files, globs or a hub data set (owner/name) to take sentences from"
    )
    parser.add_argument("--text_column", default="text", help="column of --corpus that holds the text")
    add_bad_row_flag(parser)
    parser.add_argument("--num_probes", type=cli.positive_int, default=800, help="the paper's setting is 800")
    parser.add_argument("--max_tokens", type=cli.positive_int, default=4096, help="longest probe, answer included")
    parser.add_argument("--shots", type=cli.non_negative_int, default=3, help="demonstrations in each prompt")
    parser.add_argument("--key_length", type=cli.positive_int, default=32, help="characters of a random key")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    parser.add_argument("--out", type=Path, default=Path("data/probes.jsonl"), help="where the probes go")
    add_trust_flag(parser)
    return parser.parse_args(argv)


def local_files(corpus: list[str]) -> list[Path]:
    """The files of a corpus; none where it is named like a hub data set (`owner/name`) and no such path is here."""
    name = corpus[0]
    on_hub = len(corpus) == 1 and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists()
    return [] if on_hub else expand(corpus)


def corpus_documents(corpus: list[str], columns: Columns, bad_rows: BadRows) -> Iterator[SourceDocument]:
    """Documents of local files, or of a data set on the hub."""
    if local_files(corpus):
        return read_files(corpus, columns, bad_rows)
    return read_hub(corpus[0], None, columns, bad_rows)


def corpus_sentences(corpus: list[str] | None, columns: Columns, bad_rows: BadRows, seed: int) -> list[str]:
    """Sentences of the sample text or of the corpus (at most its first 100,000), in a seeded random order."""
    if corpus:
        texts = (document.text for document in corpus_documents(corpus, columns, bad_rows))
        sentences = list(islice((sentence for text in texts for sentence in split_sentences(text)), MAX_SENTENCES))
    else:
        sentences = sample_sentences()
    random.Random(seed).shuffle(sentences)
    return sentences


def generate(
    tokenizer: TextTokenizer,
    sentences: list[str],
    num_probes: int,
    max_tokens: int,
    shots: int,
    key_length: int,
    seed: int,
    out: Path,
) -> None:
    """Build the probes and write them."""
    usable = usable_sentences(sentences, tokenizer)
    probes = build_probes(usable, tokenizer, num_probes, max_tokens, shots, key_length, seed)
    with sole_writer(out), atomic(out) as tmp:
        write_probes(tmp, cli.progress(num_probes, "making probes", "probes", probes))
    print(f"wrote {num_probes} probes of up to {max_tokens} tokens, from {len(usable)} sentences, to {out}")
    print(f"next: python compute_retrieval_heads.py --model {tokenizer.name} --probes {out}")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    tokenizer = load_tokenizer(args.tokenizer, args.trust_remote_code)
    if args.corpus:
        refuse_inputs([args.out], local_files(args.corpus))
    bad_rows = BadRows(skip=args.on_bad_row == "skip")
    sentences = corpus_sentences(args.corpus, Columns(text=args.text_column), bad_rows, args.seed)
    cli.report_skipped(bad_rows)
    generate(tokenizer, sentences, args.num_probes, args.max_tokens, args.shots, args.key_length, args.seed, args.out)


if __name__ == "__main__":
    cli.run(main)
