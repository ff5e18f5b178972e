"""Random models and documents of given sizes: speed depends on shapes, not on what the weights have learnt."""

import numpy as np
import torch
import transformers

from common.model.heads import Head
from common.model.masking import Masking

COLUMNS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size",
           "vocab_size", "tie_word_embeddings")  # fmt: skip
SHAPES = {
    "30M": (12, 384, 6, 2, 1024, 49152, True),
    "135M": (30, 576, 9, 3, 1536, 49152, True),
    "360M": (32, 960, 15, 5, 2560, 49152, True),
    "1.3B": (24, 2048, 16, 16, 5504, 32000, False),
}


def random_model(shape: str, device: str, dtype: torch.dtype, **other) -> transformers.PreTrainedModel:
    """A Llama of this shape, but for `other` settings of its config, with random weights."""
    torch.manual_seed(0)
    settings = {**dict(zip(COLUMNS, SHAPES[shape], strict=True)), **other}
    config = transformers.LlamaConfig(**settings, max_position_embeddings=16384)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model.eval()


def upper_heads(model: transformers.PreTrainedModel, percent: float = 5) -> Masking:
    """Mask `percent` of all heads, spread over the upper half of the layers, beginning with its lowest head."""
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    places = [Head(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
    count = max(1, round(layers * heads * percent / 100))
    return Masking("uniform", [places[index] for index in np.linspace(0, len(places) - 1, count).astype(int)])


def fineweb_like_lengths(num_documents: int, longest: int = 8192) -> np.ndarray:
    """Document lengths in tokens: log-normal, mean about 700."""
    lengths = np.random.default_rng(0).lognormal(np.log(700) - 0.5, 1.0, num_documents)
    return lengths.astype(int).clip(16, longest)


def random_documents(lengths, vocab_size: int) -> list[np.ndarray]:
    """Random token ids of documents of these lengths."""
    rng = np.random.default_rng(1)
    return [rng.integers(3, vocab_size, length) for length in lengths]
