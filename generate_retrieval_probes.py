"""Step 1: make retrieval probes, questions that a model can answer only by copying from its context.

    python generate_retrieval_probes.py
    python generate_retrieval_probes.py --tokenizer data/SmolLM2-135M-Instruct --num_probes 12 --max_tokens 512
    python generate_retrieval_probes.py --corpus 'notes/*.txt'       heads for your own domain
    python generate_retrieval_probes.py --corpus 'data/mine/fineweb_train_*.bin' --domain novels

Reads   sentences: of the sample text, or of --corpus (text, JSONL or parquet files, a data set on the hub, or shards of
        step 4, of which --domain takes one domain)
Writes  data/probes.jsonl, one probe per line, each an instruction, a JSON object of random keys with sentences as
        values, three demonstrations and the wanted key; the answer is that key's value:

        {"id": 0, "prompt": "Look up the key…\\n{\\"q2Xh…\\": \\"Rome lies on the river\\", …}\\n\\nZt8w…\\nRain…\\n\\n…
         q2Xh…\\nanswer:\\n", "answer": "Rome lies on the river", "template": "published", "num_tokens": 4062}
"""

import argparse
import random
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

from common import cli, flags
from common.errors import InputError
from common.files import atomic, expand, refuse_inputs, sole_writer
from common.hub import DEFAULT_MODEL

MAX_SENTENCES = 100_000


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.Parser(__doc__)
    parser.add_argument("--tokenizer", default=DEFAULT_MODEL, help="model name or folder")
    parser.add_argument(
        "--corpus", nargs="+", help="files, globs, a hub data set (owner/name), or shards of step 4, for the sentences"
    )
    parser.add_argument("--domain", help="with shards: take sentences only of this domain (default: of all)")
    parser.add_argument("--text_column", default="text", help="column of --corpus that holds the text")
    flags.add_bad_row_flag(parser)
    parser.add_argument("--num_probes", type=cli.positive_int, default=800, help="the paper's setting is 800")
    parser.add_argument("--max_tokens", type=cli.positive_int, default=4096, help="longest probe, including its answer")
    parser.add_argument(
        "--template",
        choices=["published", "plain"],
        default="published",
        help="published: as in the paper, with an instruction and a cue; plain: only object, demonstrations and key",
    )
    parser.add_argument("--shots", type=cli.non_negative_int, default=3, help="demonstrations in each prompt")
    parser.add_argument("--key_length", type=cli.positive_int, default=32, help="characters of a random key")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same bytes")
    parser.add_argument("--out", type=Path, default=Path("data/probes.jsonl"), help="where the probes go")
    flags.add_trust_flag(parser)
    return parser.parse_args(argv)


def local_files(corpus: list[str]) -> list[Path]:
    """The files of a corpus; none if it has the name of a hub data set (`owner/name`) and no such path exists."""
    name = corpus[0]
    on_hub = len(corpus) == 1 and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists()
    return [] if on_hub else expand(corpus)


def first_sentences(texts: Iterable[str]) -> list[str]:
    """The sentences of texts, at most the first 100,000; the rest is not read."""
    from common.text.sample import split_sentences

    return list(islice((sentence for text in texts for sentence in split_sentences(text)), MAX_SENTENCES))


def corpus_sentences(corpus: list[str], text_column: str, skip_bad_rows: bool) -> list[str]:
    """The first sentences of local files or of a data set on the hub."""
    from common.text.corpus import Columns, RowReader, read_files, read_hub

    reader = RowReader(Columns(text=text_column), skip_bad_rows)
    paths = local_files(corpus)
    documents = read_files(paths, reader) if paths else read_hub(corpus[0], None, reader)
    found = first_sentences(document.text for document in documents)
    reader.report()
    return found


def shard_sentences(paths: list[Path], domain: str | None, tokenizer) -> list[str]:
    """The first sentences of shards, of all documents or of those of a domain.

    Raises:
        InputError: no document has the domain, or the shards are of another tokenizer.
    """
    from common.shards.reader import ShardReader

    reader = ShardReader(model_tokenizer=tokenizer)
    reader.require_domains([] if domain is None else [domain], paths, "--domain")

    def texts() -> Iterator[str]:
        for path in paths:
            shard = reader.open(path).verified()
            for row in (row for row, name in enumerate(shard.domains) if domain in (None, name)):
                ids = shard.document(row).token_ids
                yield tokenizer.decode(ids[ids != shard.separator_id].tolist())

    return first_sentences(texts())


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from common.model.probes import ProbeOptions, build_probes, usable_sentences, write_probes
    from common.text.sample import sample_sentences
    from common.text.tokenization import load_tokenizer

    tokenizer = load_tokenizer(args.tokenizer, args.trust_remote_code)
    files = local_files(args.corpus) if args.corpus else []
    refuse_inputs([args.out], files)
    of_shards = bool(files) and all(path.suffix == ".bin" for path in files)
    if args.domain is not None and not of_shards:
        raise InputError("--domain: only shards of step 4 know domains; name them with --corpus, or leave it out")
    if of_shards:
        sentences = shard_sentences(files, args.domain, tokenizer)
    elif args.corpus:
        sentences = corpus_sentences(args.corpus, args.text_column, args.on_bad_row == "skip")
    else:
        sentences = sample_sentences()
    random.Random(args.seed).shuffle(sentences)
    usable = usable_sentences(sentences, tokenizer)
    probes = build_probes(usable, tokenizer, cli.options(ProbeOptions, args))
    with sole_writer(args.out), atomic(args.out) as tmp:
        made = list(cli.progress(args.num_probes, "making probes", "probes", probes))
        write_probes(tmp, made)
    print(f"wrote {args.num_probes} {args.template} probes, from {len(usable)} sentences, to {args.out}")
    lengths = [probe.num_tokens for probe in made]
    print(f"tokens of a probe: median {median(lengths):.0f}, shortest {min(lengths)}, at most {args.max_tokens}")
    print(f"next: python compute_retrieval_heads.py --model {tokenizer.name} --probes {args.out}")


if __name__ == "__main__":
    cli.run(main)
