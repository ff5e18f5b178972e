"""Kill every step that writes, at random moments and at random file operations, and see that nothing is lost.

    python tests/tools/kill_steps.py                  6 steps x 25 kills and 4 polite stops, about 4 minutes on 2 cores
    python tests/tools/kill_steps.py --kills 3        what the test suite runs

After each kill: no file under its final name differs from the one that an uninterrupted run writes. Then the same
command is run again, and must leave exactly what an uninterrupted run leaves, without a temporary file.

A kill is SIGKILL. Half of them strike at a random moment, half right before a file operation (opening for writing,
renaming, deleting, making a folder), and half find the outputs of an earlier run, to be replaced. Polite stops are
SIGTERM and SIGINT: the step must end within seconds, say how to go on, leave no temporary file, and leave whole what
was there before. Every run is a process of its own, forked from one that has imported torch, so that the moments fall
into the work and not into the imports.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import pyarrow.parquet as pq

import attention_influence_scoring
import common.table.parts
import compute_retrieval_heads
import fineweb
import generate_retrieval_probes
import make_reference_model
import rank_scores
from common import cli
from tests.conftest import SENTENCES, byte_level_bpe, save_bpe, tiny_model

STOP_SECONDS = 5
WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT
FILE_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


@dataclass(frozen=True)
class Step:
    """A script with its flags, and what it writes, in the folder that it is run in."""

    name: str
    main: Callable
    flags: str
    outputs: tuple[str, ...]


STEPS = [
    Step(
        "probes",
        generate_retrieval_probes.main,
        "--tokenizer ../model --num_probes 8 --max_tokens 500 --key_length 6 --corpus ../sentences.txt",
        ("data/probes.jsonl",),
    ),
    Step(
        "heads",
        compute_retrieval_heads.main,
        "--model ../model",
        ("data/retrieval_heads.txt", "data/retrieval_heads.tsv", "data/retrieval_heads.png"),
    ),
    Step(
        "reference model",
        make_reference_model.main,
        "--base_model ../model --probes data/probes.jsonl --max_probes 1 --draws 2",
        ("reference-model",),
    ),
    Step(
        "shards",
        fineweb.main,
        "--tokenizer ../model --input ../corpus.jsonl --out_dir data/shards --shard_size 900",
        ("data/shards",),
    ),
    Step(
        "scores",
        attention_influence_scoring.main,
        "--base_model ../model --data data/shards/*.bin --seq_len 64 --tokens_per_batch 256",
        ("data/ai_scores.tsv", "data/ai_scores.parquet", "data/ai_scores.parts"),
    ),
    Step(
        "ranking",
        rank_scores.main,
        "",
        ("data/top20.tsv", "data/top20.parquet", "data/top20.png", "data/top20.repetition.png"),
    ),
]


def in_a_process(work: Callable[[], None]) -> int:
    """Fork, do the work, and leave without cleaning up what belongs to the parent; returns the child's id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except SystemExit as exit_:
        code = exit_.code or 0
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(step: Step, folder: Path, die_at: int | None = None, sent: signal.Signals = signal.SIGKILL) -> int:
    """Run a step in `folder`; its output goes to log, and the number of its file operations to events.

    Args:
        die_at: the file operation before which the process sends itself the signal `sent`.
    """
    events = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal events
        writes = event == "open" and isinstance(args[2], int) and args[2] & WRITING_FLAGS
        if (writes or event in FILE_EVENTS) and str(folder) in os.path.abspath(os.fsdecode(args[0])):  # noqa: PTH100
            events += 1
            if events == die_at:
                os.kill(os.getpid(), sent)

    def work() -> None:
        os.chdir(folder)
        log = os.open("../log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        common.table.parts.SECONDS_PER_PART = 0
        sys.addaudithook(hook)
        cli.run(lambda: step.main(step.flags.split()))
        Path("../events").write_text(str(events))

    return in_a_process(work)


def finish(child: int) -> int:
    """Wait; the exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def snapshot(folder: Path, step: Step) -> dict[str, object]:
    """What a step has written under final names: bytes, or rows of parquet, by path."""
    found = {}
    for output in step.outputs:
        path = folder / output
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            name = str(file.relative_to(folder))
            is_part = ".parts/" in name and (name.endswith("parquet") or file.name == "time.json")
            if file.is_file() and not file.name.startswith(".") and not is_part:
                found[name] = pq.read_table(file) if name == "data/ai_scores.parquet" else file.read_bytes()
    return found


def temporaries(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.suffix != ".lock"]


def prepare(folder: Path) -> None:
    """A tiny model, text to tokenize and sentences for probes."""
    save_bpe(folder / "model", byte_level_bpe(400))
    tiny_model("Llama").save_pretrained(folder / "model")
    words = " ".join(SENTENCES).replace(".", "").split()
    rng = random.Random(0)
    sentences = [" ".join(rng.choices(words, k=6)) for _ in range(300)]
    (folder / "sentences.txt").write_text("\n\n".join(sentences))
    with (folder / "corpus.jsonl").open("w") as file:
        for _ in range(300):
            file.write(json.dumps({"text": " ".join(rng.choices(words, k=rng.randint(1, 60)))}) + "\n")


class Trial:
    """Kills of one step, each in a copy of the folder in which the steps before it were run.

    Attributes:
        folder: where the step was run without interruption.
        seconds, events: how long that took, and how many file operations.
    """

    def __init__(self, step: Step, folder: Path, rng: random.Random):
        self.step, self.folder, self.rng = step, folder, rng
        self.before = folder.parent / "before"
        shutil.copytree(folder, self.before)
        begin = time.monotonic()
        self._must(finish(start(step, folder)) == 0, "an uninterrupted run failed")
        self.seconds = time.monotonic() - begin
        self.events = int((folder.parent / "events").read_text())
        self.expected = snapshot(folder, step)

    def close(self) -> None:
        shutil.rmtree(self.before)

    def kill(self, number: int, sent: signal.Signals) -> str:
        """One kill and the run after it; returns what was hit."""
        work = self.folder.parent / "work"
        # Every second time the outputs of an earlier run are there, to be replaced; shards and scores would be reused.
        replaced = number % 2 and self.step.name not in ("shards", "scores")
        shutil.copytree(self.folder if replaced else self.before, work)
        try:
            if number % 4 < 2:
                status = finish(start(self.step, work, self.rng.randint(1, self.events), sent))
            else:
                child = start(self.step, work)
                time.sleep(0.05 + self.rng.random() * self.seconds)  # by then the handlers are in place
                os.kill(child, sent)
                begin = time.monotonic()
                status = finish(child)
                self._must(time.monotonic() - begin < STOP_SECONDS, f"did not stop within {STOP_SECONDS} s")
            if sent != signal.SIGKILL:
                self._must(status in (0, 128 + sent), f"exit status {status} after {sent.name}")
                self._must(not temporaries(work), f"{temporaries(work)} left after {sent.name}")
                said = (work.parent / "log").read_text()
                self._must(status == 0 or "the same command" in said, f"does not say how to go on: {said}")
            found = snapshot(work, self.step)
            for name, content in found.items():
                self._must(content == self.expected.get(name), f"{name} is half written")
            missing = self.expected.keys() - found.keys() - {"reference-model/causal_check.json"}
            self._must(
                not (replaced and missing and sent != signal.SIGKILL), f"{missing} is gone, which was there before"
            )
            self._must(finish(start(self.step, work)) == 0, "the same command failed afterwards")
            found = snapshot(work, self.step)
            self._must(found.keys() == self.expected.keys(), f"files {set(found) ^ set(self.expected)}")
            for name, content in found.items():
                self._must(content == self.expected[name], f"{name} differs from an uninterrupted run's")
            self._must(not temporaries(work), f"{temporaries(work)} left")
        finally:
            shutil.rmtree(work)
        return {0: "ended before"}.get(status, sent.name)

    def _must(self, truth: bool, otherwise: str) -> None:
        if not truth:
            log = (self.folder.parent / "log").read_text()
            raise SystemExit(f"{self.step.name}: {otherwise}\n{log[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="kills of each step")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    total = Counter()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name).resolve()
        if finish(in_a_process(lambda: prepare(base))):
            raise SystemExit("the tiny model could not be made")
        folder = base / "finished"
        folder.mkdir()
        for step in STEPS:
            trial, hit, number = Trial(step, folder, rng), Counter(), 0
            while hit["SIGKILL"] < args.kills:
                hit[trial.kill(number, signal.SIGKILL)] += 1
                number += 1
            for number, sent in enumerate((signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT)):
                hit[trial.kill(number, sent)] += 1
            trial.close()
            print(f"{step.name}: {dict(hit)}, {trial.events} file operations, {trial.seconds:.1f} s", flush=True)
            total += hit
    stops = total["SIGTERM"] + total["SIGINT"]
    print(f"all {total['SIGKILL']} kills and {stops} stops: nothing lost, nothing half written")


if __name__ == "__main__":
    main()
