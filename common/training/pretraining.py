"""Step 7: the streams of the mixture, the training run, and the checkpoint it writes."""

import json
from collections.abc import Collection
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import transformers

from common import cli
from common.errors import InputError
from common.files import as_path, atomic, claim, expand, read_json, refuse_folder, remove, sole_writer, write_json
from common.shards.doc_id import ARRAY, shard_path
from common.shards.index import ShardInfo
from common.shards.reader import ShardReader
from common.shards.tokenizing import RECORD as DATASET
from common.text.prefiltered import facts_in
from common.text.tokenization import TextTokenizer, load_tokenizer
from common.training.mixture import DocumentStream, Mixture
from common.training.trainer import (
    CHECKPOINT,
    LossCurve,
    TrainingOptions,
    explained,
    make_trainer,
    training_arguments,
    whole_checkpoint,
)

SELECTED, BASELINE, VALIDATION = "selected", "baseline", "validation"
RECORD = "pretraining.json"  # in the model's folder: how it was trained
VALIDATION_TOKENS = 1_000_000  # at most, of --val_data


@dataclass(frozen=True)
class Pretraining:
    """A training run.

    Attributes:
        tokenizer: saved with the model; None saves none.
        settings: a later start must have the same settings to continue the run.
        overwrite: delete another run's work in `out_dir` first.
    """

    model: transformers.PreTrainedModel
    tokenizer: TextTokenizer | None
    mixture: Mixture
    validation: Mixture | None
    options: TrainingOptions
    settings: dict
    out_dir: Path
    overwrite: bool


def open_streams(
    mix: Collection[str],
    selected: list[str],
    data: list[str],
    val_data: list[str] | None,
    reader: ShardReader,
    allow_other_corpus: bool,
) -> dict[str, DocumentStream]:
    """The streams of the mix, and `validation` if there is one.

    Args:
        mix: the names of the streams of documents.
        selected: a selection, or shards whose documents are all selected.

    Raises:
        InputError: their tokens are of different tokenizers, validation data is also trained on, or the selection is
            not from `data` and that is not allowed.
    """
    if val_data and (both := {*expand(val_data)} & {*expand(data)}):
        raise InputError(f"--val_data {min(both)}: also in --data, so it is trained on; give other shards")
    of_table = len(selected) == 1 and not selected[0].endswith((".bin", ARRAY))
    streams = {}  # in this order, whatever the order of --mix: the sequences depend on it
    if SELECTED in mix:
        streams[SELECTED] = (
            DocumentStream.of_selection(selected[0], reader) if of_table else DocumentStream.of_shards(selected, reader)
        )
    if BASELINE in mix:
        streams[BASELINE] = DocumentStream.of_shards(data, reader)
        _warn_of_prefilter(streams[BASELINE])
    if len(streams) == 2 and of_table and not allow_other_corpus:
        _check_same_corpus(selected[0], *streams.values())
    if val_data:
        streams[VALIDATION] = DocumentStream.of_shards(val_data, reader)
    if len({stream.made_by and stream.made_by.fingerprint for stream in streams.values()}) > 1:
        raise InputError("the shards of --data, --selected and --val_data were tokenized in different ways")
    return streams


def _check_same_corpus(path: str, selected: DocumentStream, baseline: DocumentStream) -> None:
    """Raise InputError if a selected document is in no shard of the baseline."""
    known = {as_path(name).resolve() for name in baseline.names}
    if others := [name for name in selected.names if as_path(name).resolve() not in known]:
        raise InputError(
            f"{path}: selected from {shard_path(others[0])}, which is not in --data, so these are two corpora; give "
            "the shards that were scored as --data, or mix two corpora with --allow_other_corpus"
        )


def _warn_of_prefilter(baseline: DocumentStream) -> None:
    for folder in dict.fromkeys(as_path(name).parent for name in baseline.names):
        facts = None
        with suppress(InputError):  # a foreign record, which the training does not need
            facts = facts_in(folder / DATASET)
        if facts and any(part.kept < part.documents for part in facts.domains.values()):
            cli.warn(
                f"--data: {folder} holds only what a prefilter kept, so it is neither the whole corpus nor a baseline; "
                "tokenize the corpus without --prefilter into another folder, and give its shards as --data, with "
                "--allow_other_corpus"
            )
            return


def validation_mixture(stream: DocumentStream | None, seq_len: int) -> Mixture | None:
    """The beginning of the validation data, at most a million tokens and at least one sequence."""
    if stream is None:
        return None
    count = max(1, min(stream.num_tokens, VALIDATION_TOKENS) // seq_len)
    return Mixture({VALIDATION: stream}, {VALIDATION: 1}, seq_len, num_sequences=count)


def matching_tokenizer(name: str | None, made_by: ShardInfo | None) -> TextTokenizer | None:
    """The shards' tokenizer, or the one with this name; None if neither is known. InputError if the two differ."""
    if name is None and made_by is None:
        cli.warn("the shards do not say how they were tokenized; the model is saved without a tokenizer (--tokenizer)")
        return None
    tokenizer = load_tokenizer(name or made_by.tokenizer)
    if made_by and tokenizer.fingerprint != made_by.fingerprint:
        raise InputError(f"{tokenizer.name}: the shards were tokenized in another way, with {made_by.tokenizer}")
    if made_by:
        tokenizer.separator_id = made_by.separator_id
    return tokenizer


def pretrain(run: Pretraining) -> None:
    """Train, from the newest checkpoint if there is one, and save the model with its tokenizer."""
    curve, more = LossCurve(run.options.batch_size * run.mixture.seq_len), run.options.more
    with explained(more, curve):
        args = training_arguments(run.options, run.out_dir, run.validation)
    first, trained = args.process_index == 0, run.out_dir / "model"
    with sole_writer(run.out_dir) if first else nullcontext():
        with args.main_process_first(local=False):
            if first:
                _claim(run, trained)
            checkpoint = whole_checkpoint(run.out_dir)
        if trained.exists():
            if read_json(trained / RECORD) != json.loads(json.dumps(run.settings)):
                raise InputError(f"{trained}: another run's model; give another --out_dir, or --overwrite")
            if first:
                print(f"{trained}/ is trained already; --overwrite trains it again")
            return
        if first:
            print(*run.mixture.sources(), sep="\n")
        with closing(curve), explained(more, curve):
            trainer = make_trainer(run.model, args, run.mixture, run.validation, curve)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        with atomic(trained, RECORD) if first else nullcontext(trained) as folder:
            trainer.save_model(str(folder))
            if first:
                _complete(folder, run)
    if first:
        picture = run.out_dir / "loss.png"
        print(f"wrote {trained}/ after {run.mixture.num_tokens:,} tokens; its curve: {picture}, loss.jsonl")
        print(f"next: python evaluate.py --models {trained}")


def _claim(run: Pretraining, trained: Path) -> None:
    refuse_folder(trained, RECORD)
    if run.overwrite:
        remove(trained / RECORD, trained)
    claim(run.out_dir / "run.json", run.settings, run.overwrite, CHECKPOINT)


def _complete(folder: Path, run: Pretraining) -> None:
    """Turn what the Trainer saved into an ordinary checkpoint with its tokenizer, and record how it was trained."""
    if not list(folder.glob("*.safetensors")):
        raise InputError("the Trainer saved no whole weights; leave the state dict's type out of --trainer")
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle
    if run.tokenizer:
        run.tokenizer.save(folder)
    write_json(folder / RECORD, run.settings)
