"""The retrieval task that finds the heads: look up a key in a JSON object and copy its value.

A probe's prompt is a JSON object of random keys with sentences as values, a few demonstrations (key, newline, value,
newline), then the wanted key and a newline. The answer is that key's value (AttentionInfluence, arXiv 2505.07293).
"""

import json
import random
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import InputError
from common.text.tokenization import TextTokenizer

MIN_SENTENCE_TOKENS, MAX_SENTENCE_TOKENS = 5, 30


@dataclass(frozen=True)
class Probe:
    """One retrieval question. `answer` occurs in `prompt` exactly once, character for character."""

    id: int
    prompt: str
    answer: str


@dataclass(frozen=True)
class ProbeOptions:
    """How probes are made.

    Attributes:
        max_tokens: most tokens of BOS, prompt and answer together.
        shots: demonstrations in a prompt.
        key_length: characters of a key.
        seed: equal options give equal probes.
    """

    num_probes: int
    max_tokens: int
    shots: int = 3
    key_length: int = 32
    seed: int = 0


def usable_sentences(sentences: Iterable[str], tokenizer: TextTokenizer) -> list[str]:
    """The distinct sentences of 5 to 30 tokens that JSON does not escape, in the order of their first occurrence.

    The final full stop is dropped: in the object a quotation mark follows the value, and tokenizers often merge the
    two, so the answer's last token would not occur in the context.
    """
    stripped = (sentence.strip().rstrip(".!?") for sentence in sentences)
    distinct = [s for s in dict.fromkeys(stripped) if s and json.dumps(s, ensure_ascii=False) == f'"{s}"']
    lengths = map(len, tokenizer.encode_batch(distinct)) if distinct else ()
    return [
        s for s, length in zip(distinct, lengths, strict=True) if MIN_SENTENCE_TOKENS <= length <= MAX_SENTENCE_TOKENS
    ]


def build_probes(sentences: Sequence[str], tokenizer: TextTokenizer, options: ProbeOptions) -> Iterator[Probe]:
    """Yield probes with as many key-value pairs as fit into `max_tokens`.

    Raises:
        InputError: too few sentences, or `max_tokens` is too small for the demonstrations and a question.
    """
    if options.key_length > options.max_tokens:
        raise InputError(
            f"--key_length {options.key_length}: more characters than --max_tokens {options.max_tokens} allow; lower it"
        )
    rng = random.Random(options.seed)
    for probe_id in range(options.num_probes):
        for _attempt in range(20):
            probe = _draw_probe(rng, probe_id, sentences, tokenizer, options)
            if _answer_follows_prompt(probe, tokenizer):
                yield probe
                break
        else:
            raise InputError(
                f"{tokenizer.name}: the tokens of a prompt are not a prefix of the tokens of prompt and answer, "
                "20 times in a row; this tokenizer merges across the newline, so probes are not possible with it"
            )


def _draw_probe(
    rng: random.Random, probe_id: int, sentences: Sequence[str], tokenizer: TextTokenizer, options: ProbeOptions
) -> Probe:
    pairs = _draw_pairs(rng, sentences, options)
    places = [rng.random() for _ in pairs]
    bos_tokens = 0 if tokenizer.bos_id is None else 1

    def probe_of(num_pairs: int) -> Probe:
        shown = sorted(range(num_pairs), key=places.__getitem__)
        lookup = json.dumps(dict(pairs[i] for i in shown), ensure_ascii=False)
        demonstrations = "".join(f"{key}\n{value}\n" for key, value in pairs[1 : options.shots + 1])
        question, answer = pairs[0]
        return Probe(probe_id, f"{lookup}\n{demonstrations}{question}\n", answer)

    def fits(num_pairs: int) -> bool:
        probe = probe_of(num_pairs)
        return bos_tokens + len(tokenizer.encode(probe.prompt + probe.answer)) <= options.max_tokens

    smallest = options.shots + 1
    if len(pairs) < smallest or not fits(smallest):
        raise InputError(
            f"probe {probe_id}: {options.shots} demonstrations and a question need {smallest} usable sentences and "
            f"more than {options.max_tokens} tokens allow; raise --max_tokens, lower --shots or give a larger --corpus"
        )
    low, high = smallest, len(pairs)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return probe_of(low)


def _draw_pairs(rng: random.Random, sentences: Sequence[str], options: ProbeOptions) -> list[tuple[str, str]]:
    """Distinct keys and sentences; the first pair is the question's, and no other sentence contains its answer."""
    # A pair has more tokens than the shortest sentence plus one token for every four characters of its key.
    key_length = options.key_length
    most = max(options.shots + 1, options.max_tokens // (MIN_SENTENCE_TOKENS + key_length // 4))
    drawn = rng.sample(range(len(sentences)), min(most, len(sentences)))
    values = [sentences[i] for i in drawn]
    values = values[:1] + [value for value in values[1:] if values[0] not in value]
    if key_length < 6 and len(values) > 62**key_length // 2:
        raise InputError(f"--key_length {key_length}: too short for {len(values)} different keys; raise it")
    keys: dict[str, None] = {}
    while len(keys) < len(values):
        keys["".join(rng.choices(string.ascii_letters + string.digits, k=key_length))] = None
    return list(zip(keys, values, strict=True))


def _answer_follows_prompt(probe: Probe, tokenizer: TextTokenizer) -> bool:
    prompt_ids = tokenizer.encode(probe.prompt)
    return tokenizer.encode(probe.prompt + probe.answer)[: len(prompt_ids)] == prompt_ids


def write_probes(path: Path, probes: Iterable[Probe]) -> None:
    """Write one JSON object per line: id, prompt, answer."""
    with Path(path).open("w", encoding="utf-8") as file:
        for probe in probes:
            file.write(json.dumps(asdict(probe), ensure_ascii=False) + "\n")


def read_probes(path: Path) -> list[Probe]:
    """Read probes and check them; InputError names file, line and what to do."""
    make = "make it with generate_retrieval_probes.py"
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {make}") from None
    probes = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line.decode("utf-8-sig"))
            probe = Probe(record["id"], record["prompt"], record["answer"])
            json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is not text
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not a probe with id, prompt and answer ({error!r}); {make}") from None
        if not (isinstance(probe.prompt, str) and isinstance(probe.answer, str) and probe.answer):
            raise InputError(f"{path}:{number}: prompt and answer must be texts, the answer not empty; {make}")
        if probe.prompt.count(probe.answer) != 1:
            raise InputError(
                f"{path}:{number}: the answer occurs {probe.prompt.count(probe.answer)} times in the prompt, "
                f"it must occur exactly once; {make}"
            )
        probes.append(probe)
    if not probes:
        raise InputError(f"{path}: no probes in it; {make}")
    return probes
