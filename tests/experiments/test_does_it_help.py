import itertools
import json

import arms
import does_it_help
import measuring
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import fineweb
import pretrain
from common.errors import InputError
from common.shards.reader import ShardReader
from common.text.tokenization import load_tokenizer
from common.training.mixture import DocumentStream, Mixture
from common.training.pretraining import open_streams
from tests.conftest import SENTENCES, error_of, tiny_model, write_jsonl


@pytest.fixture(scope="module")
def scores():
    """Scores of 3,000 documents of two domains; longer ones score higher, as real ones do."""
    draw = np.random.default_rng(0)
    length = draw.integers(50, 500, 3000)
    noise = draw.normal(0, 100, (3, 3000))
    return pd.DataFrame(
        {
            "domain": np.where(draw.random(3000) < 0.3, "news", "code"),
            "num_tokens": length,
            "AI_Score": length + noise[0],
            "AI_Score_novel_5": length / 2 + noise[1],
            "L_base": noise[2] - length,
        }
    )


def share(scores, rows):
    """The share of the tokens of each domain."""
    return scores.loc[rows].groupby("domain")["num_tokens"].sum() / scores.groupby("domain")["num_tokens"].sum()


@pytest.mark.parametrize("highest", [True, False])
def test_the_best_are_a_fifth_of_the_tokens_of_each_domain(scores, highest):
    rows = arms.best(scores, "AI_Score", highest)
    assert share(scores, rows).to_dict() == pytest.approx({"code": 0.2, "news": 0.2}, abs=0.002)
    rest, chosen = scores.drop(rows), scores.loc[rows]
    for domain, inside in chosen.groupby("domain")["AI_Score"]:
        others = rest.loc[rest["domain"] == domain, "AI_Score"]
        assert inside.min() > others.max() if highest else inside.max() < others.min()


def test_all_samples_have_the_tokens_of_each_domain_and_random_documents_the_lengths_of_the_selection(scores):
    found = arms.samples(scores, 20_000, seed=0)
    in_all = scores.groupby("domain")["num_tokens"].sum()
    for arm, taken in found.items():
        of_domain = taken.groupby(scores["domain"]).sum()
        assert of_domain.sum() == 20_000 and abs(of_domain["news"] - 20_000 * in_all["news"] / in_all.sum()) < 1
        assert (taken <= scores.loc[taken.index, "num_tokens"]).all() and taken.index.is_unique
        assert arm == "random" or taken.index.isin(arms.best(scores, *arms.SORTED[arm])).all()
    ours, random = found["AI_Score"], found["random"]
    assert sorted(ours) == sorted(random) and set(ours.index) != set(random.index)
    assert (scores.loc[random.index, "num_tokens"] - random).mean() < 10
    low = scores.loc[found["lowest AI_Score"].index, "num_tokens"].mean()
    assert low < scores["num_tokens"].mean() < arms.facts(scores, random)["mean length"]
    assert set(random.index) != set(arms.samples(scores, 20_000, seed=1)["random"].index)


def test_documents_of_one_length_and_too_many_tokens(scores):
    equal = scores.assign(num_tokens=100)
    taken = arms.samples(equal, 1_000, seed=0)
    assert taken["random"].sum() == 1_000 and len(taken["random"]) in (10, 11)
    with pytest.raises(InputError, match=r"a fifth of the domain code has not"):
        arms.samples(scores, 200_000, seed=0)


TEXTS = [np.full(10, 9.0)]


@pytest.mark.parametrize("seed", range(5))
def test_intervals_are_those_of_a_paired_t_test(seed):
    ours, other = np.random.default_rng(seed).normal([[0.8], [0]], 0.5, (2, 4))
    found = does_it_help.compare(list(ours - other), TEXTS, higher_is_better=True)
    test = stats.ttest_rel(ours, other)
    low, high = test.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert (found["verdict"] == "not decided") == (test.pvalue > 0.05)


@pytest.mark.parametrize("count", [3, 4])
def test_the_smallest_difference_is_found_in_four_of_five_repetitions(count):
    mean = does_it_help.smallest(count) / np.sqrt(count)
    draws = np.random.default_rng(0).normal(mean, 1, size=(20_000, count))
    found = stats.ttest_1samp(draws, 0, axis=1)
    assert np.mean((found.pvalue < 0.05) & (found.statistic > 0)) == pytest.approx(0.8, abs=0.01)


def test_the_interval_over_texts_is_that_of_the_mean_of_the_domains():
    draw = np.random.default_rng(0)
    groups = [draw.normal(mean, spread, 200) for mean, spread in ((1, 0.5), (2, 2.0), (6, 1.0))]
    low, high = does_it_help.over_texts(groups)
    error = np.sqrt(sum(group.var() / 200 for group in groups)) / 3
    assert (low + high) / 2 == pytest.approx(np.mean([group.mean() for group in groups]), abs=error / 5)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.08)


@pytest.mark.parametrize(
    ("sign", "higher", "verdict"), [(1, 1, "helps"), (1, 0, "harms"), (-1, 1, "harms"), (-1, 0, "helps")]
)
def test_a_verdict_needs_both_intervals_and_knows_which_direction_is_better(sign, higher, verdict):
    seeds, texts = [sign * 1.0, sign * 1.1, sign * 0.9], [sign * np.arange(1, 4.0)]
    assert does_it_help.compare(seeds, texts, bool(higher))["verdict"] == verdict
    for other in ([np.arange(-3.0, 4)], [-each for each in texts]):
        assert does_it_help.compare(seeds, other, bool(higher))["verdict"] == "not decided"


def test_an_outcome_says_whether_the_hypothesis_holds():
    level = dict(zip(does_it_help.ARMS, (1.0, 1.2, 1.1, 0.9, 1.3, 1.0), strict=True))
    found = {}
    for seed in range(2):
        for arm, value in level.items():
            noise = {"AI_Score": 0.01, "random": 5.0}.get(arm, 0) * seed
            names = [f"loss, {name}" for name in measuring.NEEDS_CONTEXT]
            one = {
                "loss, news": [value] * 3,
                "fall, news": [value] * 3,
                **{name: [value + noise] * 3 for name in names},
            }
            one["loss, news"][seed] += 1e-4 * len(arm)  # all differences but a little alike
            one["fall, news"][seed] += 1e-4 * len(arm)
            found[arm, seed] = one
    outcomes = [one["outcome"] for one in does_it_help.verdicts(does_it_help.comparisons(found)).values()]
    assert outcomes == ["confirmed", "refuted", "refuted", "confirmed", "not decided", "refuted"]


@pytest.fixture
def folder(bpe_folder, tmp_path):
    """Shards of 300 documents, those of code in capitals, and their scores."""
    text, draw = " ".join(SENTENCES), np.random.default_rng(0)
    texts = [text[k : k + 200 + k] for k in range(300)]
    rows = [
        {"id": f"{k}", "domain": "news" if k % 2 else "code", "text": each if k % 2 else each.upper()}
        for k, each in enumerate(texts)
    ]
    write_jsonl(tmp_path / "pool.jsonl", rows)
    flags = f"--tokenizer {bpe_folder} --input {tmp_path}/pool.jsonl --domain_column domain --shard_size 20_000"
    fineweb.main(f"{flags} --out_dir {tmp_path}/shards".split())
    encode = load_tokenizer(bpe_folder).encode
    scores = pd.DataFrame([{"id": row["id"], "domain": row["domain"]} for row in rows[::-1]])
    scores["num_tokens"] = [len(encode(row["text"])) + 1 for row in rows[::-1]]
    for column in ("AI_Score", "AI_Score_novel_5", "L_base"):
        scores[column] = draw.normal(size=len(rows))
    scores.to_parquet(tmp_path / "pilot.parquet")
    return tmp_path


def pool_of(folder):
    return arms.documents(folder, folder / "pilot.parquet")


def tokens_read(args, monkeypatch) -> list[tuple[str, list[int]]]:
    """The sequences that pretrain.py reads with the flags of an arm: of which stream each is, and its tokens."""
    found = []
    monkeypatch.setattr(pretrain, "main", found.append)
    does_it_help.train(*args)
    args = pretrain.parse_args(*found)
    streams = open_streams(dict(args.mix), args.selected, args.data, None, ShardReader(), False)
    num_steps = pretrain.steps_of(args.max_tokens, args.seq_len, args.batch_size)
    mixture = Mixture(streams, dict(args.mix), args.seq_len, args.seed, num_steps * args.batch_size)
    return [(mixture.place(n)[0], mixture[n]["input_ids"].tolist()) for n in range(len(mixture))]


def test_all_arms_read_as_many_tokens_and_those_of_the_corpus_at_the_same_steps(folder, bpe_folder, monkeypatch):
    pool, tokenizer = pool_of(folder), load_tokenizer(bpe_folder)
    args = does_it_help.parse_args("--tokens 20_500 --batch_size 2".split())
    drawn = arms.drawn("AI_Score", pool, 512, 40)
    assert drawn == {"selected": 9 * 512, "baseline": 31 * 512}
    samples, read = arms.samples(pool, drawn["selected"], 3), {}
    for arm in arms.ARMS:
        if arm in samples:
            arms.write(pool, samples[arm], does_it_help.selection(arm, 3, folder), tokenizer)
        read[arm] = tokens_read((arm, 3, args, folder, folder / "out"), monkeypatch)
    assert {len(sequences) for sequences in read.values()} == {40}
    for arm, sequences in read.items():
        counts = {"selected": 0, "baseline": 0} | arms.drawn(arm, pool, 512, 40)
        assert {name: 512 * sum(of == name for of, _ in sequences) for name in counts} == counts
        if arm in samples:
            for (of, ours), (of_random, random) in zip(sequences, read["random"], strict=True):
                assert of == of_random and (ours == random or of == "selected")
            ids = [token for of, tokens in sequences if of == "selected" for token in tokens]
            assert ids.count(tokenizer.separator_id) == len(samples[arm])
            whole = {tuple(ShardReader().open(row.shard).tokens[row.start : row.end]) for row in pool.itertuples()}
            uncut = sum(document in whole for document in split(ids, tokenizer.separator_id))
            assert arm == "random" or uncut >= len(samples[arm]) - 2  # of each domain the last one is cut


def split(ids, separator):
    """The documents of some tokens, each with its separator."""
    ends = [0, *(place + 1 for place, token in enumerate(ids) if token == separator)]
    return [tuple(ids[start:end]) for start, end in itertools.pairwise(ends)]


def test_the_tokens_of_each_domain_are_those_that_a_run_reads(folder, bpe_folder):
    pool, tokenizer = pool_of(folder), load_tokenizer(bpe_folder)
    tokens = DocumentStream.of_shards([f"{folder}/shards/*.bin"]).read(0, 5_000, 7).tolist()
    found = arms.read_by_domain(pool, 5_000, 7)
    documents = split([*tokens, tokenizer.separator_id], tokenizer.separator_id)
    code = sum(len(each) for each in documents if tokenizer.decode(list(each[:-1])).isupper())
    assert found["code"] + found["news"] == 5_000 and abs(found["code"] - code) <= 1


@pytest.mark.parametrize("arm", ["AI_Score", "corpus"])
def test_no_arm_reads_the_corpus_twice(arm, folder):
    pool = pool_of(folder)
    size, fitting = pool["num_tokens"].sum(), []
    with pytest.raises(InputError, match="lower it"):
        for count in range(1, 1000):
            fitting.append(arms.drawn(arm, pool, 512, count)["baseline"])
    assert fitting[-1] <= size < fitting[-1] + 512


@pytest.mark.parametrize("change", [lambda scores: scores.assign(num_tokens=5), lambda scores: scores[1:]])
def test_scores_of_other_documents_are_refused(folder, change):
    change(pd.read_parquet(folder / "pilot.parquet")).to_parquet(folder / "pilot.parquet")
    with pytest.raises(InputError, match=r"not the scores of all documents of the pool; run"):
        pool_of(folder)


def test_losses_are_those_of_the_answer_alone(bpe_folder):
    model, encode = tiny_model("Llama").eval(), load_tokenizer(bpe_folder).encode
    query, answer = encode(SENTENCES[0]), encode(" " + SENTENCES[1])
    found, hit = measuring.losses(model, (query + answer, len(query)))
    labels = torch.tensor([[-100] * len(query) + answer])
    with torch.no_grad():
        whole = model(input_ids=torch.tensor([query + answer]), labels=labels).loss.item()
    assert found.mean().item() == pytest.approx(whole, rel=1e-5) and len(found) == len(hit) == len(answer)


@pytest.fixture
def small(folder, bpe_folder, monkeypatch):
    """The flags of the whole experiment in small: two arms, two seeds, one task, a tiny Llama."""
    tiny_model("Llama").save_pretrained(folder / "model")
    load_tokenizer(bpe_folder).save(folder / "model")
    rows = [
        {"id": f"{k}", "domain": "news" if k % 2 else "code", "text": " ".join(SENTENCES[k:] * 9)} for k in range(6)
    ]
    write_jsonl(folder / "held_out.jsonl", rows)
    monkeypatch.setattr(does_it_help, "ARMS", ("AI_Score", "random"))
    kept = {name: each for name, each in does_it_help.HYPOTHESES.items() if set(each[:2]) == {"AI_Score", "random"}}
    monkeypatch.setattr(does_it_help, "HYPOTHESES", kept)
    probes = [{"prompt": SENTENCES[k], "answer": " " + SENTENCES[k + 1]} for k in range(8)]

    def run(script, flags):  # in this process; probes of this tokenizer would be too long
        write_jsonl(flags.split()[-1], probes) if "probes" in script else fineweb.main(flags.split())

    monkeypatch.setattr(does_it_help, "run", run)
    for name, value in {
        "TASKS": {"LAMBADA": ("lambada/bpb_0shot", 2)},
        "NEEDS_CONTEXT": ("LAMBADA", "probes"),
        "HELD_OUT": 3,
        "PROBES": 2,
        "ASKED_LEN": 500,
    }.items():
        monkeypatch.setattr(measuring, name, value)
    flags = f"--model {folder}/model --tokens 4608 --seeds 2 --pilot {folder} --scores {folder}/pilot.parquet"
    return f"{flags} --work {folder}/work --out {folder}/result.json --dtype float32"


def test_the_whole_experiment_stopped_and_continued(small, folder, monkeypatch, capsys):
    whole, calls = measuring.measure, []

    def stopped(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(measuring, "measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        does_it_help.main(small.split())
    assert not (folder / "result.json").exists()  # after one seed there is no interval
    does_it_help.main(small.split())
    assert len(calls) == 6 and not list(folder.glob("work/*/*/*-run/model"))
    result = json.loads((folder / "result.json").read_text())
    assert {one["outcome"] for one in result["hypotheses"].values()} <= {"confirmed", "refuted", "not decided"}
    assert result["measured"]["code"] == {"texts": 3, "tokens": 3 * 512} and len(result["runs"]) == 4
    assert {json.dumps(one["extra"]["domains"]) for one in result["read"]} == {
        json.dumps(result["read"][0]["extra"]["domains"])
    }
    assert result["before"]["loss, mean of the domains"] > max(
        one["found"]["loss, mean of the domains"] for one in result["runs"]
    )
    kept = next(folder.glob("work/*/*/random-1-run"))
    (kept / "model").mkdir()  # as after a stop between the values and the removal of the model
    does_it_help.main(small.split())
    assert len(calls) == 6 and not (kept / "model").exists()


def test_too_few_held_out_documents_are_refused_before_training(small, folder, monkeypatch, capsys):
    monkeypatch.setattr(measuring, "HELD_OUT", 4)
    assert "code: 3 documents of 513 tokens, not 4" in error_of(does_it_help, small, capsys)
