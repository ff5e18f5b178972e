"""Two workers of a real Ray cluster give the same rows as one process, also when a worker or a node is lost."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster

import attention_influence_scoring
import common.table.parts
import common.workers.ray_team as ray_team
import fineweb
from common import cli
from common.errors import InputError
from common.scoring.units import UnitScorer
from tests.conftest import ROOT, SENTENCES, save_pair, tiny_model

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
SHARDS = "--tokenizer model --input text.jsonl --domain_column domain --shard_size 20_000"
SCORES = "--base_model model --seq_len 128 --tokens_per_batch 256 --data data/shards/*.bin"


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory, bpe_folder):
    """Models, shards and scores that one process made."""
    folder = tmp_path_factory.mktemp("cluster")
    rng = random.Random(0)
    words = " ".join(SENTENCES).split()
    with (folder / "text.jsonl").open("w") as file:
        for number in range(700):
            text = " ".join(rng.choices(words, k=rng.randint(1, 120)))
            file.write(json.dumps({"text": text, "domain": ["plays", "maths"][number % 2]}) + "\n")
    save_pair(folder, bpe_folder, [(4, 3), (5, 6)], tiny_model("Llama", num_hidden_layers=8))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker with one core has, for equal bits
    try:
        with chdir(folder):
            fineweb.main([*SHARDS.split(), "--out_dir", "data/shards"])
            attention_influence_scoring.main(SCORES.split())
    finally:
        torch.set_num_threads(threads)
    return folder


@pytest.fixture
def on_cluster(run, cluster, monkeypatch):
    monkeypatch.chdir(run)
    monkeypatch.setattr(common.table.parts, "SECONDS_PER_PART", 0)
    return f"--engine ray --ray_address {cluster.address} --num_workers 2"


def actors(title: str) -> list[psutil.Process]:
    """The workers' processes whose title begins so; one that is doing a unit says `work` in its own."""
    return [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [""])[0].startswith(f"ray::{title}")]


def working() -> list[psutil.Process]:
    """The workers that are doing a unit."""
    return actors("_Actor.work")


@contextmanager
def during(wanted, action):
    """Once `wanted` gives something while the block runs, do `action` with it."""
    ended, done = threading.Event(), []

    def watch():
        while not (ended.is_set() or done):
            if found := wanted():
                action(found)
                done.append(found)
            time.sleep(0.05)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    assert done


def once_parts_are_written(out: Path):
    """The workers, as soon as two work and have something written."""

    def wanted():
        found = working()
        return found if len(found) == 2 and list(out.with_suffix(".parts").glob("*.parquet")) else None

    return wanted


def same(out: str) -> bool:
    return Path(out).read_bytes() == Path("data/ai_scores.tsv").read_bytes()


def documents_in(err: str) -> int:
    """How many documents the progress bar has counted."""
    return int(err.rpartition(" documents")[0].rpartition(" ")[2].replace(",", ""))


def test_two_workers_give_the_rows_of_one_process(on_cluster, capfd):
    attention_influence_scoring.main([*SCORES.split(), *on_cluster.split(), "--out", "data/two.tsv"])
    assert same("data/two.tsv")
    err = capfd.readouterr().err
    assert documents_in(err) == 700
    assert "tokens/s, 700 documents, 2 of 2 workers, 0 failures" in err


def test_a_sample_of_two_workers_grows_to_the_whole(on_cluster):
    command, whole = (
        [*SCORES.split(), *on_cluster.split(), "--out", "data/grown.tsv"],
        pd.read_parquet("data/ai_scores.parquet"),
    )
    attention_influence_scoring.main([*command, "--sample", "30%"])
    assert 100 < len(pd.read_parquet("data/grown.parquet")) < 300
    attention_influence_scoring.main(command)
    pd.testing.assert_frame_equal(pd.read_parquet("data/grown.parquet"), whole, rtol=1e-5, atol=1e-6)


def test_the_work_of_a_killed_worker_is_done_by_another_once(on_cluster, capfd):
    out = Path("data/killed.tsv")
    with during(once_parts_are_written(out), lambda found: found[0].kill()):
        attention_influence_scoring.main([*SCORES.split(), *on_cluster.split(), "--out", str(out)])
    err = capfd.readouterr().err
    assert same(out)
    assert documents_in(err) == 700
    assert "1 failures" in err
    assert err.count("a worker was lost (") == 1


def test_the_work_of_a_lost_node_is_done_on_another_once(on_cluster, cluster, capfd):
    out = Path("data/node.tsv")
    [node] = cluster.worker_nodes
    with during(once_parts_are_written(out), lambda _: cluster.remove_node(node, allow_graceful=False)):
        attention_influence_scoring.main([*SCORES.split(), *on_cluster.split(), "--out", str(out)])
    cluster.add_node(**NODE)
    err = capfd.readouterr().err
    assert same(out)
    assert documents_in(err) == 700
    assert err.count("a worker was lost (") == 1


def test_a_killed_driver_goes_on_from_the_finished_units(on_cluster, monkeypatch, capfd):
    command = [*SCORES.split(), *on_cluster.split(), "--out", "data/driver.tsv"]
    script = (
        "import attention_influence_scoring as s; from common.table import parts; parts.SECONDS_PER_PART = 0; "
        f"s.main({command})"
    )
    driver = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)})
    wanted = once_parts_are_written(Path("data/driver.tsv"))
    while driver.poll() is None and not wanted():
        time.sleep(0.05)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    assert not Path("data/driver.tsv").exists()
    added, add = [], common.table.parts.Parts.add
    monkeypatch.setattr(common.table.parts.Parts, "add", lambda self, *piece: (added.append(piece), add(self, *piece)))
    capfd.readouterr()
    attention_influence_scoring.main(command)
    assert same("data/driver.tsv")
    assert 0 < sum(last - first for _, first, last, *_ in added) < 700
    assert documents_in(capfd.readouterr().err) == 700


class Poisoned(UnitScorer):
    """Dies of one document."""

    def __call__(self, unit):
        for piece in super().__call__(unit):
            if unit.shard_name.endswith("000001") and piece.first <= 50 < piece.last:
                os.kill(os.getpid(), signal.SIGKILL)
            yield piece


def test_a_unit_that_kills_three_workers_is_set_aside_and_named(on_cluster, monkeypatch, capfd):
    command = [*SCORES.split(), *on_cluster.split(), "--out", "data/poison.tsv"]
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with monkeypatch.context() as patch:
        patch.setattr("common.scoring.units.UnitScorer", Poisoned)
        with pytest.raises(SystemExit) as exit_:
            cli.run(lambda: attention_influence_scoring.main(command))
    assert exit_.value.code == 3
    err = capfd.readouterr().err
    assert ", 3 failures" in err
    [line] = [line for line in err.splitlines() if line.startswith("set aside: ")]
    rows = Path("data/ai_scores.tsv").read_text().splitlines()
    left = Path("data/poison.tsv").read_text().splitlines()
    missing = [row.split("\t")[0] for row in rows if row not in left]
    assert 0 < len(missing) < 100
    assert left == [row for row in rows if row.split("\t")[0] not in missing]
    first, last = missing[0].rpartition("-")[0], missing[-1].rpartition("-")[2]
    assert f"{first}-{last}, whose worker was lost three times" in line


def test_a_term_signal_keeps_the_work_and_says_how_to_go_on(on_cluster, capfd):
    command = [*SCORES.split(), *on_cluster.split(), "--out", "data/term.tsv"]
    stop = once_parts_are_written(Path("data/term.tsv"))
    with during(stop, lambda _: os.kill(os.getpid(), signal.SIGTERM)), pytest.raises(SystemExit) as exit_:
        cli.run(lambda: attention_influence_scoring.main(command))
    assert exit_.value.code == 143
    assert "the same command" in capfd.readouterr().err
    assert list(Path("data/term.parts").glob("*.parquet"))
    assert not Path("data/term.tsv").exists()


def test_shards_are_those_of_one_process_though_a_worker_is_killed(on_cluster, monkeypatch, capfd):
    monkeypatch.setattr("common.shards.tokenizing.BATCH_DOCUMENTS", 5)
    with during(working, lambda found: found[0].kill()):
        fineweb.main([*SHARDS.split(), *on_cluster.split(), "--out_dir", "data/again"])
    names = sorted(path.name for path in Path("data/shards").iterdir() if path.name != ".dataset.json.lock")
    for name in names:
        assert Path("data/again", name).read_bytes() == Path("data/shards", name).read_bytes(), name
    assert len(names) > 5
    assert "1 failures" in capfd.readouterr().err


def test_an_error_in_a_worker_is_one_line(on_cluster, capfd):
    Path("broken").mkdir()
    command = [*SCORES.split(), *on_cluster.split(), "--reference_model", "broken", "--out", "data/broken.tsv"]
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda: attention_influence_scoring.main(command))
    assert exit_.value.code == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith("error: broken: ")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:99999", "nowhere.invalid:6379"])
def test_an_address_without_a_cluster_is_one_line_at_once(run, address, monkeypatch, capfd):
    monkeypatch.chdir(run)
    command = [*SCORES.split(), "--engine", "ray", "--ray_address", address, "--out", "data/none.tsv"]
    begin = time.monotonic()
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda: attention_influence_scoring.main(command))
    assert exit_.value.code == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"error: --ray_address {address}: no Ray cluster")
    assert time.monotonic() - begin < 20


def test_the_body_of_the_example_for_slurm_scores_on_one_node(run):
    (run / "attention_influence_scoring.py").symlink_to(ROOT / "attention_influence_scoring.py")
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    env = {**os.environ, "PYTHON": sys.executable, "RAY_PORT": str(port), "SLURM_CPUS_PER_TASK": "1"}
    command = ["bash", ROOT / "examples/slurm.sh", *SCORES.split(), "--out", "data/slurm.tsv"]
    done = subprocess.run(command, cwd=run, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 nodes have joined the Ray cluster" in done.stdout
    found, expected = (pd.read_csv(run / f"data/{name}.tsv", sep="\t") for name in ("slurm", "ai_scores"))
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-5)


class Light:
    """A worker that needs no model; a unit says what to do."""

    description = "light"

    def __init__(self, kind: str, folder: Path):
        first = folder / "first"
        if kind == "only one starts" and first.exists():
            raise RuntimeError("no room here")
        first.touch()
        if kind == "all differ":
            self.description = os.getpid()

    def __call__(self, unit):
        if unit == "die":
            os._exit(1)
        if unit == "slow":
            time.sleep(2)
        yield unit


@contextmanager
def light(cluster, tmp_path, kind="", num_workers=2):
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    make = partial(Light, kind, tmp_path)
    with ray_team.RayTeam(make, lambda unit, piece: None, cluster.address, num_workers, on_gpu=False) as workers:
        yield workers


def test_a_unit_is_not_to_blame_for_workers_that_died_idle(cluster, tmp_path):
    def all_of_six():
        found = actors("_Actor")
        return found if len(found) == 6 and working() else None

    with light(cluster, tmp_path, num_workers=6) as workers:
        while workers.num_started < 6:
            assert [piece for *_, piece in workers.run(["x"])] == ["x"]
        with during(all_of_six, lambda found: [process.kill() for process in found]):
            assert [piece for *_, piece in workers.run(["slow"])] == ["slow"]
        assert workers.failures >= 2
        assert workers.set_aside == []


def test_the_work_is_done_without_the_workers_that_do_not_start(cluster, tmp_path):
    with light(cluster, tmp_path, "only one starts") as workers:
        while workers.failures < ray_team.TRIALS * 2:
            assert [piece for *_, piece in workers.run(["x"])] == ["x"]
        assert sorted(piece for *_, piece in workers.run(map(str, range(9)))) == list("012345678")
        assert workers.num_started == 1


def test_workers_of_different_models_are_refused(cluster, tmp_path):
    with light(cluster, tmp_path, "all differ") as workers, pytest.raises(InputError, match="different models"):
        while True:
            list(workers.run(["x"]))


def test_units_that_all_kill_their_workers_end_the_run(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_team, "TRIALS", 1)
    with light(cluster, tmp_path, num_workers=1) as workers, pytest.raises(InputError, match="3 units in a row"):
        list(workers.run(["die"] * 9))
    assert workers.failures == 3  # each unit is to blame for its worker, however soon that died


def test_a_gpu_by_number_and_ray_do_not_go_together(run, monkeypatch):
    monkeypatch.chdir(run)
    with pytest.raises(InputError, match="--device cuda:1"):
        attention_influence_scoring.main([*SCORES.split(), "--engine", "ray", "--device", "cuda:1"])
    with pytest.raises(InputError, match="--num_workers"):
        attention_influence_scoring.main([*SCORES.split(), "--num_workers", "2"])


def test_without_the_flag_nothing_of_ray_is_imported(run):
    script = f"import sys, attention_influence_scoring as s; s.main({SCORES.split()}); assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], cwd=run, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
