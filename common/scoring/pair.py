"""The pair that scores documents: a base model and its reference, loaded, compared and tried.

A domain can have a reference of its own. All references that are masked copies run with the weights of the base.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from common import cli
from common.errors import InputError, one_line
from common.model.attention import attention_modules
from common.model.checkpoints import (
    Runtime,
    load_model,
    load_model_tokenizer,
    model_digest,
    require_context,
    require_tokenizer,
    vocabulary,
)
from common.model.heads import Head
from common.model.masking import Masking, find_masked_heads, require_maskable
from common.scoring.loss import PairScorer
from common.text.tokenization import TextTokenizer, Vocabulary

# Largest relative difference of a loss: packing may change it only by rounding.
FLOAT32_TOLERANCE, HALF_TOLERANCE = 1e-4, 0.05
WARNING_CHARS = 300


@dataclass(frozen=True)
class PairOptions:
    """Which two models score documents, and how.

    Attributes:
        seq_len: most targets in a window, in tokens.
        reference_of: the reference model of each domain that has one of its own, by domain.
        tokens_per_batch: most tokens in a forward pass; None suits the device.
        allow_unrelated_reference: accept a reference that is no masked copy of the base but has the same vocabulary.
        compiled: run the models' layers and the loss through torch.compile; None: on a GPU, if that works there.
    """

    base_model: str
    reference_model: str
    seq_len: int
    tokens_per_batch: int | None = None
    allow_unrelated_reference: bool = False
    runtime: Runtime = field(default_factory=Runtime)
    compiled: bool | None = False
    reference_of: Mapping[str, str] = field(default_factory=dict)


class PairDescription(NamedTuple):
    """Facts about the base and its references; the run records them.

    Attributes:
        identity: digests of all models, and the tokenizer.
        vocabulary: of the base model.
        summary: one line on how each reference relates to the base.
        device: the type of the device that computes, such as `cpu` or `cuda`.
        dtype: the precision in which it computes.
        compiled: whether torch.compile is used.
    """

    identity: dict
    vocabulary: Vocabulary
    summary: str
    device: str
    dtype: str
    compiled: bool


class Pair(NamedTuple):
    """A base model and its references, ready to score.

    Attributes:
        scorer: computes token losses under the base and the reference for most documents.
        tokenizer: the base model's.
        base: the base model itself.
        masked_heads: the heads that this reference masks; none if it is an unrelated model.
        own_scorers: of the domains that have a reference of their own, by domain.
    """

    scorer: PairScorer
    tokenizer: TextTokenizer
    description: PairDescription
    base: PreTrainedModel
    masked_heads: list[Head]
    own_scorers: dict[str, PairScorer]

    def scorer_of(self, domain: str) -> PairScorer:
        """The scorer of the documents of a domain."""
        return self.own_scorers.get(domain, self.scorer)


class _Reference(NamedTuple):
    """A reference model beside its base; `masking` is None if it is no masked copy."""

    scorer: PairScorer
    masking: Masking | None
    summary: str
    digest: str


def load_pair(options: PairOptions) -> Pair:
    """Load base and reference, and find from their tensors which heads the reference masks.

    Raises:
        InputError: a checkpoint cannot be loaded, the reference does not belong to the base, or `seq_len` is more than
            the model's context.
    """
    tokenizer = load_model_tokenizer(options.base_model, options.runtime)
    base = load_model(options.base_model, options.runtime)
    require_tokenizer(base, tokenizer)
    require_context(base, options.seq_len, "--seq_len", "lower it")
    names = dict.fromkeys([options.reference_model, *options.reference_of.values()])
    references = {name: _load_reference(base, name, options) for name in names}
    reference = references[options.reference_model]
    of_domains = {domain: references[name] for domain, name in sorted(options.reference_of.items())}
    identity = {
        "base_model": model_digest(base),
        "reference_model": reference.digest,
        "tokenizer": tokenizer.fingerprint,
        "bos_id": tokenizer.bos_id,
        # not in the records of earlier versions
        **({"reference_of": {domain: each.digest for domain, each in of_domains.items()}} if of_domains else {}),
    }
    summary = "; ".join([reference.summary, *(f"{domain}: {each.summary}" for domain, each in of_domains.items())])
    device, dtype = base.device.type, str(base.dtype).removeprefix("torch.")
    description = PairDescription(identity, vocabulary(base), summary, device, dtype, reference.scorer.compiled)
    masked_heads = reference.masking.heads if reference.masking else []
    own_scorers = {domain: each.scorer for domain, each in of_domains.items()}
    return Pair(reference.scorer, tokenizer, description, base, masked_heads, own_scorers)


def _load_reference(base: PreTrainedModel, name: str, options: PairOptions) -> _Reference:
    """Load a reference, and find how it relates to the base; of a masked copy no weights stay in memory."""
    reference = load_model(name, options.runtime)
    require_context(reference, options.seq_len, "--seq_len", "lower it")
    found = find_masked_heads(base, reference)
    if isinstance(found, Masking):
        layers, first = base.config.num_hidden_layers, min(head.layer for head in found.heads)
        how = f"the first in layer {first} of {layers}: layers below it run once"
        masking, summary = found, f"{len(found.heads)} heads masked ({found.kind}), {how}"
        models = {"masked": found}
    else:
        _check_unrelated(base, reference, found, name, options)
        masking, summary = None, f"two separate models: {found}"
        models = {"reference": reference}
    scorer = _checked_scorer(base, reference, models, options)
    return _Reference(scorer, masking, summary, model_digest(reference))


def _check_unrelated(
    base: PreTrainedModel, reference: PreTrainedModel, found: str, name: str, options: PairOptions
) -> None:
    """Raise InputError unless the user allows a reference that is no masked copy, and it has the same vocabulary."""
    if not options.allow_unrelated_reference:
        raise InputError(
            f"{name} is no masked copy of {options.base_model}: {found}. Make it with "
            f"make_reference_model.py --base_model {options.base_model}, or compare unrelated models with "
            "--allow_unrelated_reference"
        )
    if vocabulary(reference).size != vocabulary(base).size:
        raise InputError(
            f"{name}: its vocabulary has {vocabulary(reference).size} tokens, but that of "
            f"{options.base_model} {vocabulary(base).size}, so losses do not compare; use models with one vocabulary"
        )


def _checked_scorer(
    base: PreTrainedModel, reference: PreTrainedModel, models: dict, options: PairOptions
) -> PairScorer:
    """A scorer whose losses are checked, compiled if the options and the device allow it."""
    compiled = base.device.type == "cuda" if options.compiled is None else options.compiled
    if compiled:
        print("compiling: up to a minute the first time")
    try:
        scorer = PairScorer(base, **models, tokens_per_batch=options.tokens_per_batch, compiled=compiled)
        _check_losses(scorer, (base, reference))
    except InputError as error:
        if not compiled or options.compiled:
            raise
        scorer = _checked_scorer(base, reference, models, replace(options, compiled=False))
        cli.warn(one_line(f"runs without torch.compile, which fails here: {error}")[:WARNING_CHARS])
    return scorer


def require_scorable(model: PreTrainedModel) -> None:
    """Raise InputError for a model whose heads cannot be masked, or whose losses cannot be computed rightly.

    Steps 2 and 3 call it, so that a class that step 5 refuses costs no work before.
    """
    require_maskable(model)
    last = Head(max(attention_modules(model)), 0)
    _check_losses(PairScorer(model, masked=Masking("zero", [last])), (model,))


@torch.no_grad()
def _check_losses(scorer: PairScorer, models: Sequence[PreTrainedModel]) -> None:
    """Raise InputError unless two short documents, scored together, have the losses that the plain models compute.

    Args:
        models: the base, and the reference if it is to be checked too.
    """
    base = models[0]
    vocab_size = vocabulary(base).size
    documents = [np.arange(start, start + length) * 37 % vocab_size for start, length in ((1, 12), (50, 7))]
    try:
        found = [
            losses.means()[:2]
            for done in scorer.stream((n, [d]) for n, d in enumerate(documents))
            for _, losses in done
        ]
    except (InputError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # unknown classes raise many types
        hint = "; try --no-compile" if scorer.compiled else ""
        raise InputError(
            f"{type(base).__name__}: it cannot be scored ({type(error).__name__}: {error}){hint}"
        ) from None
    for document, losses in zip(documents, found, strict=True):
        ids = torch.tensor(document, device=base.device)[None]
        for model, loss in zip(models, losses, strict=False):
            # not the model's own loss, to which a mixture of experts may add that of its router
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            expected = torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()
            tolerance = (FLOAT32_TOLERANCE if model.dtype == torch.float32 else HALF_TOLERANCE) * expected
            if math.isfinite(expected) and not abs(loss - expected) <= tolerance:
                raise InputError(
                    f"{type(base).__name__}: scored together with another document, a document's loss is {loss:.6f} "
                    f"but alone it is {expected:.6f}; this class cannot be scored"
                )
