"""What tests of several folders share: tiny models and tokenizers, losses of plain transformers, shards, a store."""

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read at import; no test waits for a hub

import fsspec
import hypothesis
import numpy as np
import pytest
import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import generate_retrieval_probes
import make_reference_model
from common import cli
from common.shards.documents import Document
from common.shards.writer import DatasetWriter
from common.text.corpus import SourceDocument
from common.text.tokenization import load_tokenizer

ROOT = Path(__file__).parents[1]
SLOWEST = ["test_smollm2.py", "test_steps_killed.py", "test_ray_team.py"]
hypothesis.settings.register_profile("here", deadline=None, max_examples=200)
hypothesis.settings.load_profile("here")

SENTENCES = [
    "The quick brown fox jumps over the lazy dog near the old stone bridge.",
    "A small river runs past the mill and down to the grey winter sea.",
    "Nobody in the village could remember who had built the tall tower.",
    "Every morning the baker carries warm bread across the quiet square.",
    "My brother keeps seven black hens behind the broken garden wall.",
    "They sailed for three days before the wind turned to the north.",
    "The teacher wrote the answer on the board and left the room.",
    "Rain fell on the roof all night while the children slept soundly.",
    "An honest merchant weighs his silver twice and his words once.",
    "The train to the coast leaves at noon from the second platform.",
    "She planted four apple trees along the path behind the house.",
    "Old maps show a road through the forest that no one uses now.",
    "The doctor closed her bag and promised to come again on Friday.",
    "Two soldiers guarded the gate until the king had passed by it.",
    "Cold water from the well tasted of iron and of fallen leaves.",
    "His letter arrived a week after the ship had left the harbour.",
]


def pytest_collection_modifyitems(items):
    """The slowest files first, so that two processes end at about the same time."""
    items.sort(key=lambda item: SLOWEST.index(item.path.name) if item.path.name in SLOWEST else len(SLOWEST))


def document_of(token_ids, separator_id: int = -1, answers=None) -> Document:
    """A document of these tokens at the beginning of a shard."""
    return Document("shard", 0, np.asarray(token_ids), separator_id, "domain", answers)


def error_of(script, flags: str | list[str], capsys) -> str:
    """The one line with which a script ends that cannot go on."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda: script.main(flags.split() if isinstance(flags, str) else flags))
    assert exit_.value.code == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line.startswith("error: ")
    return line


def byte_level_bpe(vocab_size: int) -> Tokenizer:
    """A GPT-2-like tokenizer, <|endoftext|> first; 257 ids are the bytes alone, without a merge."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 2, trainer)
    return tokenizer


def save_bpe(folder, tokenizer: Tokenizer) -> str:
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def bpe_folder(tmp_path_factory) -> str:
    """Adds no BOS."""
    return save_bpe(tmp_path_factory.mktemp("bpe"), byte_level_bpe(400))


@pytest.fixture(scope="session")
def bos_bpe_folder(tmp_path_factory) -> str:
    """Its post-processor puts a BOS, id 0, before every text."""
    tokenizer = byte_level_bpe(400)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    return save_bpe(tmp_path_factory.mktemp("bos_bpe"), tokenizer)


@pytest.fixture(scope="session")
def bytes_folder(tmp_path_factory) -> str:
    """One token for each byte."""
    return save_bpe(tmp_path_factory.mktemp("bytes"), byte_level_bpe(257))


@pytest.fixture(scope="session")
def spm_folder(tmp_path_factory) -> str:
    """A Llama-2-like checkpoint: tokenizer.model, a BOS, byte fallback, and weights in pytorch_model.bin alone."""
    folder = tmp_path_factory.mktemp("llama2")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=(written := io.BytesIO()),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
                "add_bos_token": True,
                "add_eos_token": False,
            }
        )
    )
    model = tiny_model("Llama", bos_token_id=1, eos_token_id=2)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return str(folder)


@pytest.fixture(scope="session")
def bpe(bpe_folder):
    return load_tokenizer(bpe_folder)


@pytest.fixture(scope="session")
def bos_bpe(bos_bpe_folder):
    return load_tokenizer(bos_bpe_folder)


@pytest.fixture(scope="session")
def spm(spm_folder):
    return load_tokenizer(spm_folder)


@pytest.fixture(params=["bpe", "bos_bpe", "spm"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def tiny_model(family: str, **settings) -> transformers.PreTrainedModel:
    """4 layers of 8 query heads on 2 key/value heads, random weights, float32; the same on every call.

    Args:
        settings: of the config; `...` leaves one out.
    """
    settings = {
        name: value
        for name, value in {
            "vocab_size": 400,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": False,
            "pad_token_id": None,
            "bos_token_id": 0,
            "eos_token_id": 0,
            **settings,
        }.items()
        if value is not ...
    }
    config = getattr(transformers, f"{family}Config")(**settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0, 0.3, generator=generator)
    return model


def save_pair(folder: Path, tokenizer: str, heads: list[tuple[int, int]], model=None) -> None:
    """A model in `model` and its copy with these heads masked in `reference-model`, both with the tokenizer.

    Args:
        tokenizer: a folder with one.
        model: by default a tiny Llama.
    """
    (model or tiny_model("Llama")).save_pretrained(folder / "model")
    load_tokenizer(tokenizer).save(folder / "model")
    (folder / "heads.txt").write_text("".join(f"{layer},{head}\n" for layer, head in heads))
    flags = f"--base_model {folder}/model --retrieval_heads {folder}/heads.txt --out {folder}/reference-model"
    make_reference_model.main(flags.split())


def load_plain(folder) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def plain_windows(ids, seq_len: int, bos_id: int | None = None) -> list:
    """Windows of up to `seq_len` targets each, after a BOS or the token before."""
    if bos_id is None:
        return [ids[first : first + seq_len + 1] for first in range(0, len(ids) - 1, seq_len)]
    return [[bos_id, *ids[first : first + seq_len]] for first in range(0, len(ids), seq_len)]


def plain_loss(model: transformers.PreTrainedModel, windows: Iterable) -> float:
    """Mean loss per target: transformers' own loss of each window, weighted by the window's targets."""
    total = targets = 0
    for window in windows:
        ids = torch.as_tensor(window)[None]
        with torch.no_grad():
            total += model(input_ids=ids, labels=ids).loss.item() * (len(window) - 1)
        targets += len(window) - 1
    return total / targets


def write_jsonl(path: Path | str, rows: Iterable[dict]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


MASKED = [(1, 3), (2, 5)]


@pytest.fixture(scope="session")
def pair_folders(tmp_path_factory, bpe_folder, bos_bpe_folder, spm_folder):
    """By kind of tokenizer, a folder with a pair; the heads in MASKED are masked, the second of them the strongest."""
    tokenizers = {"no BOS": bpe_folder, "BOS": bos_bpe_folder, "SentencePiece": spm_folder}
    folders = {kind: tmp_path_factory.mktemp(kind.replace(" ", "_")) for kind in tokenizers}
    for kind, folder in folders.items():
        special = {"bos_token_id": 1, "eos_token_id": 2} if kind == "SentencePiece" else {}
        save_pair(folder, tokenizers[kind], MASKED[::-1], tiny_model("Llama", **special))
    return folders


CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_models(tmp_path_factory) -> Path:
    """A folder with a model of bytes and pairs of them, its chat template, and its reference."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level_bpe(300), bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder / "tokenizer")
    save_pair(folder, f"{folder}/tokenizer", [(2, 3), (3, 6)])
    return folder


@pytest.fixture
def with_chat_models(chat_models, tmp_path, monkeypatch) -> Path:
    """A working directory with those models."""
    for name in ("model", "reference-model"):
        (tmp_path / name).symlink_to(chat_models / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def two_models(tmp_path_factory, bpe_folder):
    """Two tiny models that continue text at random, and probes."""
    folder = tmp_path_factory.mktemp("evaluate")
    tokenizer = load_tokenizer(bpe_folder)
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(tiny_model("Llama", max_position_embeddings=4096).config)
        model.save_pretrained(folder / name)
        tokenizer.save(folder / name)
    (folder / "sentences.txt").write_text("\n\n".join(SENTENCES))
    flags = f"--tokenizer {folder}/one --num_probes 4 --max_tokens 900 --key_length 6 --corpus {folder}/sentences.txt"
    generate_retrieval_probes.main([*flags.split(), "--out", str(folder / "probes.jsonl")])
    return folder


SEPARATOR = 9


class NumberTokenizer:
    """What a dataset's writer asks of a tokenizer."""

    name, fingerprint, separator_id = "t", "f", SEPARATOR

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size


def write_shards(folder: Path, documents, domains, shard_size: int = 10**6, vocab_size: int = 400) -> list[Path]:
    """Shards of documents that are lists of token ids."""
    writer = DatasetWriter(folder, NumberTokenizer(vocab_size), shard_size, 0)
    for number, (ids, domain) in enumerate(zip(documents, domains, strict=True)):
        writer.add(SourceDocument("", f"id{number}", domain), ids)
    writer.close()
    return sorted(folder.glob("*.bin"))


@pytest.fixture(scope="session")
def s3_server():
    """A server of object storage, found by its clients."""
    from moto.server import ThreadedMotoServer  # which few tests need, and which takes long to import

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    own = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    own |= {"AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        yield
    server.stop()


@pytest.fixture(scope="module")
def bucket(request):
    """A name for each file of tests, so that they do not see each other's objects."""
    return request.module.__name__.rpartition(".")[2].replace("_", "-")


@pytest.fixture(scope="module")
def s3(s3_server, bucket):
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}"


@pytest.fixture(params=["s3", "memory"])
def store(request, bucket):
    return request.getfixturevalue("s3") if request.param == "s3" else f"memory://{bucket}"
