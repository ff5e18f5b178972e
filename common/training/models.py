"""The model to train: new, with random weights, or a checkpoint."""

from pathlib import Path

import torch
import transformers

from common.errors import InputError
from common.files import read_json
from common.model.checkpoints import Runtime, load_model
from common.text.tokenization import TextTokenizer


def new_model(
    config: str, tokenizer: TextTokenizer | None, seed: int, trust_remote_code: bool
) -> transformers.PreTrainedModel:
    """A causal language model with random weights, in float32.

    Args:
        config: a Hugging Face name, a folder, or a JSON file. JSON needs `model_type`; other missing entries have the
            defaults of the class, but the vocabulary is the tokenizer's.
        tokenizer: of the data; its special tokens become the model's, and the separator the end of text of both.
    Raises:
        InputError: there is no such config, or it is not of a causal language model.
    """
    special = {}
    if tokenizer:
        special = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.separator_id, "pad_token_id": None}
        tokenizer.end_with_separator()
    try:
        if Path(config).is_file():
            vocabulary = {"vocab_size": tokenizer.vocab_size} if tokenizer else {}
            parsed = transformers.AutoConfig.for_model(**{**vocabulary, **special, **read_json(Path(config))})
        else:
            parsed = transformers.AutoConfig.from_pretrained(config, trust_remote_code=trust_remote_code)
            for name, value in special.items():
                setattr(parsed, name, value)
        transformers.set_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(
            parsed, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    except InputError:
        raise
    except Exception as error:  # configs of many classes raise many types
        raise InputError(f"--config {config}: no model can be made from it ({type(error).__name__}: {error})") from None


def trained_model(name: str, trust_remote_code: bool) -> transformers.PreTrainedModel:
    """A checkpoint to continue training from, in float32; InputError if it is none."""
    model = load_model(name, Runtime(device="cpu", dtype="float32", trust_remote_code=trust_remote_code))
    model.set_attn_implementation("sdpa")
    return model.train()
