"""The retrieval task that finds the heads: look up a key in a JSON object and copy its value.

A probe's prompt is a JSON object of random keys with sentences as values, a few demonstrations (key, newline, value,
newline), then the wanted key and a newline. The answer is that key's value (AttentionInfluence, arXiv 2505.07293).
The paper's template has more: an instruction before the object, blank lines around the demonstrations, and a cue after
the wanted key. A newline ends the cue, as it ends the key without one: after a space, most tokenizers would give the
answer another first token than in the object, where a quotation mark stands before it.
"""

import json
import random
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from common.errors import InputError
from common.text.tokenization import TextTokenizer

# What stands before the object, after the object and each demonstration, and after the wanted key.
TEMPLATES = {
    "published": ("Look up the key in this JSON object. Answer with its value, not a word more.\n", "\n", "answer:\n"),
    "plain": ("", "", ""),
}
MIN_SENTENCE_TOKENS, MAX_SENTENCE_TOKENS = 5, 30


@dataclass(frozen=True)
class Probe:
    """One retrieval question.

    Attributes:
        answer: occurs in `prompt` exactly once, character for character.
        template: a name in `TEMPLATES`; older files do not have it, they are plain.
        num_tokens: tokens of BOS, prompt and answer; None in an older file.
    """

    id: int
    prompt: str
    answer: str
    template: str = "plain"
    num_tokens: int | None = None


@dataclass(frozen=True)
class ProbeOptions:
    """How probes are made.

    Attributes:
        max_tokens: most tokens of BOS, prompt and answer together.
        shots: demonstrations in a prompt.
        key_length: characters of a key.
        seed: equal options give equal probes.
        template: a name in `TEMPLATES`.
    """

    num_probes: int
    max_tokens: int
    shots: int = 3
    key_length: int = 32
    seed: int = 0
    template: str = "published"


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
            if _is_copyable(probe, tokenizer):
                yield probe
                break
        else:
            raise InputError(
                f"{tokenizer.name}: the answer does not follow the prompt with the tokens that it has in the object, "
                "20 times in a row; this tokenizer merges across the newline or the quotation marks, so probes are not "
                "possible with it"
            )


def _draw_probe(
    rng: random.Random, probe_id: int, sentences: Sequence[str], tokenizer: TextTokenizer, options: ProbeOptions
) -> Probe:
    pairs = _draw_pairs(rng, sentences, options)
    places = [rng.random() for _ in pairs]
    bos_tokens = 0 if tokenizer.bos_id is None else 1
    instruction, gap, cue = TEMPLATES[options.template]

    def probe_of(num_pairs: int) -> Probe:
        shown = sorted(range(num_pairs), key=places.__getitem__)
        lookup = json.dumps(dict(pairs[i] for i in shown), ensure_ascii=False)
        demonstrations = "".join(f"{key}\n{value}\n{gap}" for key, value in pairs[1 : options.shots + 1])
        question, answer = pairs[0]
        prompt = f"{instruction}{lookup}\n{gap}{demonstrations}{question}\n{cue}"
        num_tokens = bos_tokens + len(tokenizer.encode(prompt + answer))
        return Probe(probe_id, prompt, answer, options.template, num_tokens)

    def fits(num_pairs: int) -> bool:
        return probe_of(num_pairs).num_tokens <= options.max_tokens

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


def _is_copyable(probe: Probe, tokenizer: TextTokenizer) -> bool:
    """Whether the answer stands once in the prompt, follows it, and has the same tokens in both places."""
    prompt_ids, ids = tokenizer.encode(probe.prompt), tokenizer.encode(probe.prompt + probe.answer)
    answer_ids = ids[len(prompt_ids) :]
    places = range(len(prompt_ids) - len(answer_ids) + 1)
    return (
        probe.prompt.count(probe.answer) == 1
        and ids[: len(prompt_ids)] == prompt_ids
        and any(prompt_ids[i : i + len(answer_ids)] == answer_ids for i in places)
    )


def write_probes(path: Path, probes: Iterable[Probe]) -> None:
    """Write one JSON object per line: id, prompt, answer, template, num_tokens."""
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
            asked = record["id"], record["prompt"], record["answer"]
            probe = Probe(*asked, record.get("template", "plain"), record.get("num_tokens"))
            json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair is not text
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not a probe with id, prompt and answer ({error!r}); {make}") from None
        if not (all(isinstance(text, str) for text in (probe.prompt, probe.answer, probe.template)) and probe.answer):
            raise InputError(f"{path}:{number}: prompt, answer, template must be texts, the answer not empty; {make}")
        if probe.prompt.count(probe.answer) != 1:
            raise InputError(
                f"{path}:{number}: the answer occurs {probe.prompt.count(probe.answer)} times in the prompt, "
                f"it must occur exactly once; {make}"
            )
        probes.append(probe)
    if not probes:
        raise InputError(f"{path}: no probes in it; {make}")
    return probes
