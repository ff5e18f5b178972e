"""Shards tokenized by tiktoken, scored with a GPT-2-shaped model that brings no tokenizer of its own."""

import base64
import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiktoken
import tiktoken_ext.openai_public
import torch
import transformers

import attention_influence_scoring
import compute_retrieval_heads
import fineweb
import generate_retrieval_probes
import make_reference_model
import rank_scores
import validate_docs
from common.shards.reader import ShardReader
from common.text.sample import sample_documents
from tests.conftest import load_plain, plain_loss, plain_windows

END = 50256


@pytest.fixture
def gpt2(monkeypatch):
    """tiktoken's `gpt2`, its ranks from a package in place of the download."""
    path = Path(importlib.util.find_spec("whisper").submodule_search_locations[0]) / "assets/gpt2.tiktoken"
    lines = (line.split() for line in path.read_bytes().splitlines())
    encoding = tiktoken.Encoding(
        "gpt2",
        pat_str=tiktoken_ext.openai_public.r50k_pat_str,
        mergeable_ranks={base64.b64decode(token): int(rank) for token, rank in lines},
        special_tokens={"<|endoftext|>": END},
        explicit_n_vocab=END + 1,
    )
    monkeypatch.setattr(tiktoken, "get_encoding", {"gpt2": encoding}.__getitem__)
    return encoding


def test_tiktoken_shards_go_through_all_steps_with_a_gpt_2(tmp_path, monkeypatch, gpt2, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=512)
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained("model")
    texts = [document.text for document in sample_documents()][::40]
    Path("text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    flag = "--tokenizer tiktoken:gpt2"
    generate_retrieval_probes.main(f"{flag} --num_probes 2 --max_tokens 500".split())
    compute_retrieval_heads.main(f"--model model {flag}".split())
    make_reference_model.main(f"--base_model model {flag}".split())
    fineweb.main(f"{flag} --input text.jsonl --out_dir data/text".split())
    pair = f"--base_model model {flag} --seq_len 300"
    attention_influence_scoring.main(f"{pair} --data data/text/*.bin".split())
    rank_scores.main([])
    shard = ShardReader().open(Path("data/text/fineweb_train_000001.bin"))
    assert (shard.info.vocab_size, shard.separator_id) == (END + 1, END)
    scores = pd.read_parquet("data/ai_scores.parquet")
    assert len(scores) == len(texts)
    model = load_plain("model")
    for text, (start, end), row in zip(texts[:4], shard.spans, scores.itertuples(), strict=False):
        ids = shard.tokens[start:end].astype(np.int64)
        assert ids.tolist() == [*gpt2.encode_ordinary(text), END]
        assert row.L_base == pytest.approx(plain_loss(model, plain_windows(ids, 300)), abs=1e-4)
    capsys.readouterr()
    validate_docs.main(f"{pair} --doc_id {scores['doc_id'][0]}".split())
    assert texts[0][:40] in capsys.readouterr().out
