import json

import does_it_help
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
from common.training.mixture import Mixture
from common.training.pretraining import open_streams
from tests.conftest import SENTENCES, tiny_model


@pytest.fixture(scope="module")
def scores():
    """Scores of 3,000 documents of two domains; longer ones score higher, as real ones do."""
    draw = np.random.default_rng(0)
    length = draw.integers(50, 500, 3000)
    return pd.DataFrame(
        {
            "domain": np.where(draw.random(3000) < 0.3, "news", "code"),
            "num_tokens": length,
            "AI_Score": length + draw.normal(0, 100, 3000),
        }
    )


def share(scores, rows):
    """The share of the tokens of each domain."""
    return scores.loc[rows].groupby("domain")["num_tokens"].sum() / scores.groupby("domain")["num_tokens"].sum()


@pytest.mark.parametrize("highest", [True, False])
def test_the_best_are_a_fifth_of_the_tokens_of_each_domain(scores, highest):
    rows = does_it_help.best(scores, "AI_Score", highest)
    assert share(scores, rows).to_dict() == pytest.approx({"code": 0.2, "news": 0.2}, abs=0.002)
    rest, chosen = scores.drop(rows), scores.loc[rows]
    for domain, inside in chosen.groupby("domain")["AI_Score"]:
        others = rest.loc[rest["domain"] == domain, "AI_Score"]
        assert inside.min() > others.max() if highest else inside.max() < others.min()


def test_random_documents_have_the_domains_and_lengths_of_the_selection(scores):
    selected = does_it_help.best(scores, "AI_Score", True)
    drawn = does_it_help.like(scores, selected, seed=0)
    assert share(scores, drawn).to_dict() == pytest.approx({"code": 0.2, "news": 0.2}, abs=0.01)
    lengths = [scores.loc[rows, "num_tokens"] for rows in (selected, drawn, scores.index)]
    assert stats.ks_2samp(lengths[0], lengths[1]).statistic < 0.1 < stats.ks_2samp(lengths[0], lengths[2]).statistic
    assert set(drawn) != set(does_it_help.like(scores, selected, seed=1))


@pytest.mark.parametrize("seed", range(5))
def test_intervals_are_those_of_a_paired_t_test(seed):
    ours, other = np.random.default_rng(seed).normal([[0.8], [0]], 0.5, (2, 4))
    found = does_it_help.compare(list(ours - other), higher_is_better=True)
    test = stats.ttest_rel(ours, other)
    low, high = test.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert (found["verdict"] == "not decided") == (test.pvalue > 0.05)


def test_the_smallest_difference_is_found_in_four_of_five_repetitions():
    draws = np.random.default_rng(0).normal(size=(2000, 4))
    smallest = np.sqrt(np.mean([does_it_help.compare(list(draw), True)["smallest"] ** 2 for draw in draws]))
    found = [does_it_help.compare(list(draw + smallest), True)["verdict"] == "helps" for draw in draws]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize(
    ("sign", "higher", "verdict"), [(1, 1, "helps"), (1, 0, "harms"), (-1, 1, "harms"), (-1, 0, "helps")]
)
def test_a_verdict_knows_which_direction_is_better(sign, higher, verdict):
    assert does_it_help.compare([sign * 1.0, sign * 1.1, sign * 0.9], bool(higher))["verdict"] == verdict


def test_an_outcome_says_whether_the_hypothesis_holds():
    level = dict(zip(does_it_help.ARMS, (1.0, 1.2, 1.1, 0.9, 1.3, 1.0), strict=True))
    runs = []
    for seed in range(2):
        for arm, value in level.items():
            noise = {"AI_Score": 0.01, "random": 5.0}.get(arm, 0) * seed
            found = {does_it_help.PRIMARY: value, does_it_help.CONTEXT: value + noise, does_it_help.GAIN: value}
            runs.append({"arm": arm, "seed": seed, "found": found})
    for one in runs:  # all differences but a little alike, so that the intervals are not empty
        one["found"][does_it_help.PRIMARY] += one["seed"] * 1e-4 * len(one["arm"])
        one["found"][does_it_help.GAIN] += one["seed"] * 1e-4 * len(one["arm"])
    found = does_it_help.verdicts(does_it_help.comparisons(runs))
    outcomes = [one["outcome"] for one in found.values()]
    assert outcomes == ["confirmed", "refuted", "refuted", "confirmed", "not decided", "refuted"]


@pytest.fixture
def folder(bpe_folder, tmp_path, monkeypatch):
    """Shards of 300 documents, and their scores."""
    text, draw = " ".join(SENTENCES), np.random.default_rng(0)
    rows = [{"id": f"{k}", "domain": "news" if k % 2 else "code", "text": text[k : k + 200 + k]} for k in range(300)]
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = f"--tokenizer {bpe_folder} --input {tmp_path}/pool.jsonl --domain_column domain --shard_size 20_000"
    fineweb.main(f"{flags} --out_dir {tmp_path}/shards".split())
    encode = load_tokenizer(bpe_folder).encode
    scores = pd.DataFrame([{"id": row["id"], "domain": row["domain"]} for row in rows[::-1]])
    scores["num_tokens"] = [len(encode(row["text"])) + 1 for row in rows[::-1]]
    for column in ("AI_Score", "AI_Score_novel_5", "L_base"):
        scores[column] = draw.normal(size=len(rows))
    scores.to_parquet(tmp_path / "pilot.parquet")
    monkeypatch.setattr(does_it_help, "SCORES", tmp_path / "pilot.parquet")
    return tmp_path


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


def test_all_arms_read_as_many_tokens_and_those_of_the_corpus_at_the_same_steps(folder, monkeypatch):
    does_it_help.select(does_it_help.documents(folder), 3, folder)
    args = does_it_help.parse_args("--tokens 20_500 --batch_size 2".split())
    read = {arm: tokens_read((arm, 3, args, folder, folder / "out"), monkeypatch) for arm in does_it_help.ARMS}
    assert {len(sequences) for sequences in read.values()} == {40}
    for arm, sequences in read.items():
        counts = {"selected": 0, "baseline": 0} | does_it_help.reading(arm, 3, folder, 40)
        assert {name: 512 * sum(of == name for of, _ in sequences) for name in counts} == counts
        if arm != does_it_help.CORPUS:
            for (of, ours), (of_random, random) in zip(sequences, read["random"], strict=True):
                assert of == of_random and (ours == random or of == "selected")


@pytest.mark.parametrize("arm", ["AI_Score", "corpus"])
def test_no_arm_reads_a_document_more_often_than_in_the_paper(arm, folder):
    does_it_help.select(does_it_help.documents(folder), 0, folder)
    fits = [count for count in range(60, 100) if not refused(arm, folder, count)]
    most = max(fits)
    assert fits == list(range(60, most + 1)) and most < 99
    again = does_it_help.reading(arm, 0, folder, most)
    pool = does_it_help.documents(folder)
    assert again["baseline"] <= pool["num_tokens"].sum() < again["baseline"] + (512 if arm == "corpus" else 10**9)


def refused(arm, folder, count) -> bool:
    try:
        does_it_help.reading(arm, 0, folder, count)
    except InputError as error:
        assert "lower it" in str(error)
        return True
    return False


def test_scores_of_other_documents_are_refused(folder):
    scores = pd.read_parquet(does_it_help.SCORES)
    scores.assign(num_tokens=scores["num_tokens"] + 1).to_parquet(does_it_help.SCORES)
    with pytest.raises(InputError, match=r"not the scores of .*pool.jsonl; run"):
        does_it_help.documents(folder)


def test_losses_are_those_of_the_answer_alone(folder, bpe_folder):
    model, encode = tiny_model("Llama").eval(), load_tokenizer(bpe_folder).encode
    query, answer = encode(SENTENCES[0]), encode(" " + SENTENCES[1])
    found, hit = does_it_help.losses(model, (query + answer, len(query)))
    labels = torch.tensor([[-100] * len(query) + answer])
    with torch.no_grad():
        whole = model(input_ids=torch.tensor([query + answer]), labels=labels).loss.item()
    assert found.mean().item() == pytest.approx(whole, rel=1e-5) and len(found) == len(hit) == len(answer)


def test_texts_are_measured_up_to_a_number_of_tokens():
    texts = [([0] * 11, 1)] * 5
    assert [len(does_it_help.first_of(texts, tokens)) for tokens in (1, 10, 29, 30, 1000)] == [1, 1, 2, 3, 5]
