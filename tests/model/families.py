"""The classes of models that are tested.

tests/model/test_families.py runs every check on every entry, with a tiny random model of the class. docs/fill_tables.py
makes the table in docs/models.md from this list.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """A class of models.

    Attributes:
        name: the class in transformers, without its ending.
        known_as: models of that class.
        trait: how its attention is special.
        settings: of its config, in addition to those that all tiny models share.
        eager: whether plain transformers is exact only with eager attention.
        since: the version of transformers from which on the class computes attention through its interface.
    """

    name: str
    known_as: str
    trait: str
    settings: dict = field(default_factory=dict)
    eager: bool = False
    since: str = "5.17"


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
    Family(
        "GPTJ",
        "GPT-J (transformers 5.24)",
        "partial RoPE, attention parallel to the MLP",
        {"rotary_dim": 4},
        since="5.24",
    ),
    Family("Cohere", "Command R", "a norm on each query head, attention parallel to the MLP", {"use_qk_norm": True}),
    Family("Mixtral", "Mixtral", "a mixture of experts", {"num_local_experts": 4}),
]
