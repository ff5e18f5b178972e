"""The reference model: a masked copy of the base, the record beside it, and the pair that scores documents."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from common.errors import InputError
from common.files import as_path, read_json, write_json
from common.flags import PairOptions
from common.model.checkpoints import check_tokenizer_fits, load_model, load_model_tokenizer, max_context, model_digest
from common.model.heads import Head
from common.model.masking import find_masked_heads
from common.scoring.loss import PairScorer
from common.text.tokenization import TextTokenizer

# Of a loss, by whether the model computes in float32; packing changes no more than the rounding.
TOLERANCE = {True: 1e-4, False: 0.05}
# In a folder, it shows that the folder is a reference model of our making.
RECORD_NAME = "attention_influence.json"


def write_record(folder: Path, base_model: str, kind: str, heads: list[Head]) -> None:
    """Record in the reference model's folder which base it copies, and how which heads are masked."""
    write_json(folder / RECORD_NAME, {"base_model": base_model, "mask": kind, "heads": heads})


def read_record(folder: str | Path) -> tuple[str, list[Head]] | None:
    """How a reference model masks which heads, best first, by the record in its folder; None where there is none.

    Raises:
        InputError: the record is damaged.
    """
    path = as_path(folder) / RECORD_NAME
    if not path.exists():
        return None
    record = read_json(path)
    try:
        return str(record["mask"]), [(int(layer), int(head)) for layer, head in record["heads"]]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: it does not list the masked heads; make the folder anew") from None


class Facts(NamedTuple):
    """What a run must know, and tell, of the two models.

    Attributes:
        identity: what the results depend on: digests of both models, and the tokenizer.
        summary: one line on how the reference relates to the base.
        device: what computes: `cpu`, or the GPU's type, `cuda` say.
        dtype: in what.
    """

    identity: dict[str, str | int | None]
    vocab_size: int
    summary: str
    device: str
    dtype: str


class Pair(NamedTuple):
    """A base model and its reference, ready to score.

    Attributes:
        scorer: gives token losses under both.
        tokenizer: the base model's.
        base: the base model itself.
        masked_heads: those that the reference masks; none where it is an unrelated model.
    """

    scorer: PairScorer
    tokenizer: TextTokenizer
    facts: Facts
    base: PreTrainedModel
    masked_heads: list[Head]


def load_pair(options: PairOptions) -> Pair:
    """Load base and reference, and find from their tensors which heads the reference masks.

    Raises:
        InputError: a checkpoint cannot be loaded, the reference does not belong to the base, or `seq_len` is more than
            the model's context.
    """
    base_name, reference_name, seq_len = options.base_model, options.reference_model, options.seq_len
    tokenizer = load_model_tokenizer(base_name, options.runtime)
    base = load_model(base_name, options.runtime)
    check_tokenizer_fits(tokenizer, base, base_name)
    reference = load_model(reference_name, options.runtime)
    for name, model in ((base_name, base), (reference_name, reference)):
        limit = max_context(model)
        if limit and seq_len > limit:
            raise InputError(f"{name}: its context holds {limit} tokens, --seq_len {seq_len} is more; lower --seq_len")
    identity = {
        "base_model": model_digest(base),
        "reference_model": model_digest(reference),
        "tokenizer": tokenizer.fingerprint,
        "bos_id": tokenizer.bos_id,
    }
    vocab_size = base.get_input_embeddings().weight.shape[0]
    found, heads = find_masked_heads(base, reference), []
    how = {"tokens_per_batch": options.tokens_per_batch, "compiled": options.compiled}
    if isinstance(found, tuple):
        kind, heads = found
        layers = base.config.num_hidden_layers
        first = min(layer for layer, _ in heads)
        summary = f"{len(heads)} heads masked ({kind}), the first in layer {first} of {layers}: computed once below it"
        scorer = PairScorer(base, masked=found, **how)
    elif not options.allow_unrelated:
        raise InputError(
            f"{reference_name} is no masked copy of {base_name}: {found}. Make it with make_reference_model.py "
            f"--base_model {base_name}, or compare unrelated models with --allow_unrelated_reference"
        )
    elif reference.get_input_embeddings().weight.shape[0] != vocab_size:
        raise InputError(f"{reference_name}: its vocabulary is not {base_name}'s; their losses cannot be compared")
    else:
        summary = f"two separate models: {found}"
        scorer = PairScorer(base, reference, **how)
    _check_losses(scorer, base, reference)
    dtype = str(base.dtype).removeprefix("torch.")
    return Pair(scorer, tokenizer, Facts(identity, vocab_size, summary, base.device.type, dtype), base, heads)


@torch.no_grad()
def _check_losses(scorer: PairScorer, base: PreTrainedModel, reference: PreTrainedModel) -> None:
    """Raise InputError unless two short documents, scored together, have the losses that both models give plainly."""
    vocab_size = base.get_input_embeddings().weight.shape[0]
    documents = [np.arange(start, start + length) * 37 % vocab_size for start, length in ((1, 12), (50, 7))]
    try:
        found = [
            losses.means()[:2]
            for done in scorer.stream((n, [d]) for n, d in enumerate(documents))
            for _, losses in done
        ]
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a class of another build may raise
        hint = "; try without --compile" if scorer.compiled else ""
        raise InputError(
            f"{type(base).__name__}: it cannot be scored ({type(error).__name__}: {error}){hint}"
        ) from None
    for document, losses in zip(documents, found, strict=True):
        ids = torch.tensor(document, device=base.device)[None]
        for model, loss in zip((base, reference), losses, strict=True):
            expected = model(input_ids=ids, labels=ids, use_cache=False).loss.item()
            if (
                math.isfinite(expected)
                and not abs(loss - expected) <= TOLERANCE[model.dtype == torch.float32] * expected
            ):
                raise InputError(
                    f"{type(base).__name__}: scored together with another document, a document's loss is {loss:.6f} "
                    f"where the model by itself gives {expected:.6f}; this class cannot be scored"
                )
