"""pipeline.sh runs a step again only if there is a reason."""

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise

import pytest

from tests.conftest import ROOT

# In place of each script: it makes its outputs, unless it is told to leave a finished one as it is.
STUB = """
import json, sys
from pathlib import Path
flag, suffix = {OUT}
with open("calls.jsonl", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if flag in sys.argv:
    path = Path(sys.argv[sys.argv.index(flag) + 1])
    path = path.with_suffix(suffix) if suffix.startswith(".") else path / suffix
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.exists() and {REUSES}):
        path.write_text("made")
"""
# The flag that names the output, and what is made there.
OUTPUTS = {
    "unpack_model": ("--out", "config.json"),
    "generate_retrieval_probes": ("--out", ".jsonl"),
    "compute_retrieval_heads": ("--out", ".txt"),
    "make_reference_model": ("--out", "config.json"),
    "fineweb": ("--out_dir", "fineweb_summary.json"),
    "attention_influence_scoring": ("--out", ".json"),
    "rank_scores": ("--out", ".json"),
    "validate_docs": ("--html", ".html"),
    "report": ("--out", ".html"),
    "export_selection": ("--out_dir", "part-00000.parquet"),
}
OF_THE_SAMPLE = [name for name in OUTPUTS if name != "export_selection"]


@pytest.fixture
def pipeline(tmp_path):
    """Runs pipeline.sh over stubs; returns the scripts that it started."""
    shutil.copy(ROOT / "pipeline.sh", tmp_path)
    (tmp_path / "common").mkdir()
    (tmp_path / "common/setup.sh").write_text(f"python={sys.executable}\nsetup() {{ :; }}\n")
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/sample.txt").touch()
    for name, out in OUTPUTS.items():
        text = STUB.replace("{OUT}", repr(out)).replace("{REUSES}", repr(name == "fineweb"))
        (tmp_path / f"{name}.py").write_text(text)

    def run(*flags: str, check: bool = True, cwd=tmp_path) -> list[str]:
        command = ["bash", str(tmp_path / "pipeline.sh"), *flags]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=check)
        run.out, run.error = done.stdout, done.stderr
        return [line.split()[2].removesuffix(".py") for line in done.stdout.splitlines() if line.startswith("$ python")]

    run.folder = tmp_path
    return run


def test_a_second_run_has_nothing_to_do(pipeline):
    assert pipeline() == [*OF_THE_SAMPLE, "validate_docs"]
    assert pipeline() == []


def test_a_step_and_all_after_it_run_again_once_if_its_input_is_newer(pipeline):
    pipeline()
    probes = pipeline.folder / "data/probes.jsonl"
    before = probes.stat().st_mtime_ns
    os.utime(probes, ns=(before, before + 5_000_000_000))
    names = OF_THE_SAMPLE
    assert pipeline() == [*names[names.index("compute_retrieval_heads") :], "validate_docs"]
    os.utime(probes, ns=(before, before))
    assert pipeline() == []


def calls(folder) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def test_a_corpus_of_your_own_has_a_folder_of_its_own_and_ends_as_text(pipeline):
    flags = ["--input", "/corpora/my edu/**/*.parquet", "--keep_columns", "all", "--max_docs", "9"]
    choice = ["--where", "language_score > 0.8 and url <> 'x'", "--top_pct", "10"]
    assert pipeline(*flags, *choice) == [*OUTPUTS, "validate_docs"]
    data = "data/SmolLM2-135M-Instruct-my edu"
    assert f"the selected documents as text: {data}/selected" in pipeline.out
    tokenized, ranked = (
        next(call for call in calls(pipeline.folder) if flag in call) for flag in ("--input", "--where")
    )
    assert tokenized[:6] == flags
    assert ranked[2:6] == choice
    assert ranked[-1] == f"{data}/top10.tsv"
    assert (pipeline.folder / data / "selected/part-00000.parquet").exists()
    assert not (pipeline.folder / "data/ai_scores.json").exists()
    assert pipeline(*flags, *choice) == ["fineweb"]  # which finds by itself what is new


def test_new_files_of_a_corpus_are_scored_and_other_choices_only_ranked(pipeline):
    pipeline("--input", "/corpora/edu")
    summary = pipeline.folder / "data/SmolLM2-135M-Instruct-edu/shards/fineweb_summary.json"
    after = summary.stat().st_mtime_ns + 5_000_000_000
    os.utime(summary, ns=(after, after))
    names = list(OUTPUTS)
    place = names.index("attention_influence_scoring")
    assert pipeline("--input", "/corpora/edu") == ["fineweb", *names[place:], "validate_docs"]
    os.utime(summary, ns=(after - 5_000_000_000, after - 5_000_000_000))
    ranked = pipeline("--input", "/corpora/edu", "--score", "score")
    assert ranked == ["fineweb", *names[place + 1 :], "validate_docs"]


def test_paths_are_those_of_the_folder_in_which_it_is_called(pipeline, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    pipeline("--input", "texts/*.jsonl", "--name", "mine", cwd=other)
    [command] = [call for call in calls(pipeline.folder) if "--input" in call]
    assert command[1] == f"{other}/texts/*.jsonl"
    assert (pipeline.folder / "data/mine/ai_scores.json").exists()


def test_domains_have_heads_of_their_own_from_their_own_text(pipeline):
    flags = ["--input", "/corpora/mine", "--num_probes", "3", "--heads_of", "novels", "--heads_of", "a/b c"]
    names = list(OUTPUTS)
    own = ["generate_retrieval_probes", "compute_retrieval_heads", "make_reference_model"]
    place = names.index("attention_influence_scoring")
    assert pipeline(*flags) == [*names[:place], *own, *own, *names[place:], "validate_docs"]
    data = "data/SmolLM2-135M-Instruct-mine"
    probes = [call for call in calls(pipeline.folder) if "--num_probes" in call]
    for call, domain in zip(probes, (None, "novels", "a/b c"), strict=True):
        assert last_value(call, "--num_probes") == "3"
        assert (f"--domain={domain}" in call) == (f"{data}/shards/fineweb_train_*.bin" in call) == bool(domain)
    [scored] = [call for call in calls(pipeline.folder) if "--reference_model" in call]
    assert scored[scored.index("--reference_model") + 1 : scored.index("--data")] == [
        f"default={data}/reference-model",
        f"novels={data}/heads_of_novels/reference-model",
        f"a/b c={data}/heads_of_a%2Fb c/reference-model",
    ]
    summary = pipeline.folder / data / "shards/fineweb_summary.json"
    after = summary.stat().st_mtime_ns + 5_000_000_000
    os.utime(summary, ns=(after, after))  # new files change the scores, but no heads
    assert pipeline(*flags) == ["fineweb", *names[place:], "validate_docs"]
    # another text may be under the same name
    assert pipeline(*flags, "--overwrite") == ["fineweb", *own, *own, *names[place:], "validate_docs"]


def last_value(call, flag):
    """What argparse takes of a flag that is given twice."""
    return [value for name, value in pairwise(call) if name == flag][-1]


def test_scores_follow_a_reference_that_a_run_made_before_it_failed(pipeline):
    flags = ["--input", "/corpora/mine", "--heads_of", "novels"]
    pipeline(*flags)
    [call] = [call for call in calls(pipeline.folder) if "--domain=novels" in call]
    assert last_value(call, "--num_probes") == "40"
    script = pipeline.folder / "generate_retrieval_probes.py"
    stub = script.read_text()
    script.write_text(stub + "\nsys.exit(2 * ('--domain=typo' in sys.argv))\n")
    pipeline(*flags, "--num_probes", "50", "--heads_of", "typo", check=False)
    script.write_text(stub)
    call = [call for call in calls(pipeline.folder) if "--domain=novels" in call][-1]
    assert last_value(call, "--num_probes") == "50"
    assert pipeline(*flags, "--num_probes", "50")[:2] == ["fineweb", "attention_influence_scoring"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--inputs", "x"], "unknown flag --inputs"),
        (["--where"], "--where needs a value"),
        (["--name", ""], "--name needs"),
        (["--heads_of", "a=b"], "--heads_of a=b: the name of one domain"),
        (["--heads_of", "default"], "--heads_of default: the name of one domain"),
        (["--heads_of", "a b", "--heads_of", "c", "--heads_of", "a b"], "--heads_of a b: given twice"),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(pipeline, flags, says):
    pipeline(*flags, check=False)
    assert pipeline.error.startswith(f"error: {says}")
    assert pipeline.error.count("\n") == 1
