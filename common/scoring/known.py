"""The flags that earlier steps know: from the record of a score table, or of a reference model."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import transformers

from common.errors import InputError
from common.files import as_path, read_json
from common.hub import DEFAULT_MODEL, require_checkpoint
from common.model.reference import base_of
from common.shards.doc_id import parse_doc_id
from common.table.names import RECORDED

SEQ_LEN = 4096  # the paper's, where the model's context is not shorter
REFERENCE = "reference-model"
DEFAULT = "default"  # for the documents of all domains without a reference of their own
SCORES = Path("data/ai_scores.tsv")


def known_flags(given: Mapping[str, Any], scores: Path | None = None) -> dict[str, Any]:
    """The flags of the pair of models, each as given or, if it is None, as known.

    What the record of `scores` says comes first, if there is one; then the base model in the reference's record.

    Args:
        given: flags by name; of base_model, reference_model, tokenizer, seq_len, score_separator and score_tokens,
            those that are in it are filled in.

    Returns:
        These flags; with reference_model also `reference_of`, the references of domains by domain.

    Raises:
        InputError: a record is damaged, or the references are not told apart.
    """
    path = scores and as_path(scores).with_suffix(".json")
    record = read_json(path) if path and path.exists() else {}
    _check(record, path)
    reference, reference_of = record.get("reference_model", REFERENCE), record.get("reference_of") or {}
    if given.get("reference_model"):
        reference, reference_of = split_references(given["reference_model"])
    base = given["base_model"] or record.get("base_model") or base_of(reference) or DEFAULT_MODEL
    tokenizer = record.get("tokenizer") if record.get("tokenizer") != record.get("base_model") else None
    found = {
        "base_model": base,
        "tokenizer": tokenizer,
        "score_separator": record.get("score_separator", True),
        "score_tokens": record.get("score_tokens"),
        "seq_len": record.get("seq_len"),
    }
    flags = {name: found[name] if given[name] is None else given[name] for name in found.keys() & given.keys()}
    if flags.get("seq_len", 0) is None:
        flags["seq_len"] = _context(base, given.get("trust_remote_code", False))
    if "reference_model" in given:
        flags |= {"reference_model": reference, "reference_of": reference_of}
    return flags


def _check(record: dict, path: Path | None) -> None:
    """Raise InputError for a record whose fields have other types than step 5 gives them."""
    folders = record.get("reference_of") or {}
    wrong = [name for name, kind in RECORDED.items() if not isinstance(record.get(name), kind | None)]
    if wrong or not all(isinstance(folder, str) for folder in folders.values()):
        raise InputError(f"{path}: {(wrong or ['reference_of'])[0]} is not as step 5 wrote it; score again, or mend it")


def split_references(values: str | Sequence[str]) -> tuple[str, dict[str, str]]:
    """The reference model, and those of domains by domain, from the values of --reference_model.

    Raises:
        InputError: several values are not DOMAIN=FOLDER each, once for each domain and once for `default`.

    >>> split_references(["reference-model"]), split_references(["default=a", "code=b"])
    (('reference-model', {}), ('a', {'code': 'b'}))
    """
    values = [values] if isinstance(values, str) else values
    if len(values) == 1 and ("=" not in values[0] or Path(values[0]).exists()):
        return values[0], {}
    pairs = (value.partition("=") for value in values)
    found = {domain: folder for domain, _, folder in pairs if domain and folder}
    if len(found) < len(values) or DEFAULT not in found:
        raise InputError(
            f"--reference_model {' '.join(values)}: give one folder, or {DEFAULT}=FOLDER for most documents and "
            "DOMAIN=FOLDER once for each domain with heads of its own"
        )
    return found.pop(DEFAULT), found


def reference_values(reference: str, reference_of: Mapping[str, str]) -> list[str]:
    """The values of --reference_model, the reverse of `split_references`."""
    if not reference_of:
        return [reference]
    return [f"{domain}={folder}" for domain, folder in {DEFAULT: reference, **reference_of}.items()]


def scores_of(doc_ids: Sequence[str]) -> Path | None:
    """The usual score table, if it was made from the shards of these documents."""
    path = SCORES.with_suffix(".json")
    patterns = read_json(path).get("data", []) if path.exists() else []
    shards = [str(parse_doc_id(doc_id)[0]) for doc_id in doc_ids]
    return SCORES if all(any(fnmatch(shard, pattern) for pattern in patterns) for shard in shards) else None


def _context(name: str, trust_remote_code: bool) -> int:
    """The window of the paper, or the model's whole context if that is shorter."""
    require_checkpoint(name)
    try:
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except Exception:  # it is reported when the model is loaded
        return SEQ_LEN
    return min(SEQ_LEN, getattr(config, "max_position_embeddings", None) or SEQ_LEN)
