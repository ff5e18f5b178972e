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
        model = transformers.AutoModelForCausalLM.from_config(
            parsed, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    except InputError:
        raise
    except Exception as error:  # configs of many classes raise many types
        raise InputError(f"--config {config}: no model can be made from it ({type(error).__name__}: {error})") from None
    _require_causal(model, f"--config {config}")
    return model


def trained_model(name: str, trust_remote_code: bool) -> transformers.PreTrainedModel:
    """A checkpoint to continue training from, in float32; InputError if it is none."""
    model = load_model(name, Runtime(device="cpu", dtype="float32", trust_remote_code=trust_remote_code))
    model.set_attn_implementation("sdpa")
    _require_causal(model, f"--model {name}")
    return model.train()


@torch.inference_mode()
def _require_causal(model: transformers.PreTrainedModel, name: str) -> None:
    """Raise InputError if a token changes what the model predicts before it, as in BERT; it would learn to copy."""
    was_training = model.training
    token_ids = torch.arange(8)[None]
    changed = torch.where(token_ids == 7, 0, token_ids)
    first, second = (model.eval()(input_ids=ids).logits[0, :-1] for ids in (token_ids, changed))
    model.train(was_training)
    if (first - second).abs().max() > 1e-4 * first.abs().max():
        raise InputError(f"{name}: it sees the tokens that it should predict; give a causal language model")
