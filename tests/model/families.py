"""The classes of models that are tested, and the table of them in README.md.

    python tests/model/families.py        writes the table between the `families` marks

tests/model/test_families.py runs every check on every entry, on a tiny random model of that class.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
MARKS = re.compile(r"(<!-- families -->\n).*(<!-- /families -->)", re.DOTALL)


@dataclass(frozen=True)
class Family:
    """A class of models.

    Attributes:
        name: the class in transformers, without its ending.
        known_as: models of that class.
        trait: what is particular about its attention.
        settings: of its config, beside those that all tiny models share.
        eager: whether plain transformers is exact with eager attention only.
    """

    name: str
    known_as: str
    trait: str
    settings: dict = field(default_factory=dict)
    eager: bool = False


FAMILIES = [
    Family("Llama", "Llama 2 and 3, SmolLM2", "grouped queries"),
    Family("Mistral", "Mistral", "a sliding window", {"sliding_window": 16}),
    Family("Qwen2", "Qwen2, Qwen2.5", "a bias on queries"),
    Family("Qwen3", "Qwen3", "a norm on each query head"),
    Family(
        "Gemma2",
        "Gemma 2",
        "soft-capped logits, a window in every other layer",
        {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 10.0, "sliding_window": 16},
        eager=True,
    ),
    Family(
        "Gemma3Text",
        "Gemma 3",
        "a norm on each query head, multi-query, windows",
        {"sliding_window": 16, "num_key_value_heads": 1, "layer_types": ["sliding_attention", "full_attention"] * 2},
    ),
    Family("Phi3", "Phi-3", "one projection for queries, keys and values"),
    Family("Olmo2", "OLMo 2", "a norm over the queries of all heads"),
    Family("StableLm", "StableLM", "a norm for each head, partial RoPE", {"qk_layernorm": True, "use_qkv_bias": False}),
    Family("SmolLM3", "SmolLM3", "layers without RoPE", {"no_rope_layers": [1, 0, 1, 0]}),
    Family("Granite", "Granite", "scales of its own", {"attention_multiplier": 0.3, "logits_scaling": 4.0}),
    Family("Starcoder2", "StarCoder2", "biases, a window", {"sliding_window": 16, "use_bias": True}),
    Family("GPTNeoX", "GPT-NeoX, Pythia", "query, key and value of each head in turn, partial RoPE"),
    Family("GPT2", "GPT-2", "Conv1D projections, learned positions"),
    Family("GPTBigCode", "StarCoder, SantaCoder", "multi-query, one projection for all, learned positions"),
    Family("GPTJ", "GPT-J", "partial RoPE, attention beside the MLP", {"rotary_dim": 4}),
    Family("Cohere", "Command R", "a norm on each query head, attention beside the MLP", {"use_qk_norm": True}),
    Family("Mixtral", "Mixtral", "a mixture of experts", {"num_local_experts": 4}),
]


def table() -> str:
    lines = ["| models | class | particular about its attention |", "| --- | --- | --- |"]
    lines += [f"| {family.known_as} | {family.name} | {family.trait} |" for family in FAMILIES]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(MARKS.sub(lambda marks: marks[1] + table() + marks[2], text), encoding="utf-8")
