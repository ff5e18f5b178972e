"""Loading models: where they run, in which precision, and what identifies their weights."""

import hashlib
import json
import os
import re
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError

from common.errors import InputError
from common.flags import Runtime
from common.model.attention import NAME
from common.text.tokenization import TextTokenizer, load_tokenizer


def load_model(name: str, runtime: Runtime) -> transformers.PreTrainedModel:
    """Load a causal language model in evaluation mode.

    Weights come from safetensors, or from `pytorch_model.bin` through torch's weights-only loader.

    Args:
        name: a Hugging Face name or a folder.
    Raises:
        InputError: there is no such checkpoint, it is not a causal language model, or its weights are not finite.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    target = resolve_device(runtime.device)
    kinds = {"auto": torch.bfloat16 if target.type == "cuda" else torch.float32, "checkpoint": "auto"}
    source = {
        "pretrained_model_name_or_path": name,
        "dtype": kinds.get(runtime.dtype) or getattr(torch, runtime.dtype),
        "trust_remote_code": runtime.trust_remote_code,
        "output_loading_info": True,
    }
    try:
        try:
            model, report = transformers.AutoModelForCausalLM.from_pretrained(attn_implementation=NAME, **source)
        except KeyError as error:
            if error.args != (NAME,):
                raise
            # a class that knows its own attention functions alone, and is refused with the reason later
            model, report = transformers.AutoModelForCausalLM.from_pretrained(attn_implementation="eager", **source)
    except Exception as error:  # whatever a reader below may raise for what is not there, not whole or no checkpoint
        raise InputError(
            f"{name}: no causal language model could be loaded ({type(error).__name__}: {error}); look at the folder, "
            "or copy the checkpoint anew"
        ) from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(f"{name}: the checkpoint lacks {len(missing)} tensors, {missing[0]} among them; copy it anew")
    layers = [re.search(r"\.(\d+)\.", key) for key in report["unexpected_keys"]]
    count = getattr(model.config, "num_hidden_layers", None)
    if count and any(match and int(match[1]) >= count for match in layers):
        raise InputError(f"{name}: the checkpoint has more layers than the {count} of its config.json; mend the config")
    for tensor_name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(
                f"{name}: tensor {tensor_name} holds values that are not finite in {tensor.dtype}; copy the checkpoint "
                "anew, or take a wider --dtype"
            )
    return model.to(target).eval()


def load_model_tokenizer(name: str, runtime: Runtime) -> TextTokenizer:
    """The tokenizer in the model's folder, or the one that the user named in its place."""
    return load_tokenizer(runtime.tokenizer or name, runtime.trust_remote_code)


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA if there is one, else the CPU; InputError for a device that torch cannot use."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {device}: {error}") from None
    return target


def check_tokenizer_fits(tokenizer: TextTokenizer, model: transformers.PreTrainedModel, name: str) -> None:
    """Raise InputError when the tokenizer can give out ids that the model has no embedding for."""
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise InputError(
            f"{tokenizer.name}: the tokenizer knows {tokenizer.vocab_size} tokens, but {name} embeds {rows}; "
            "give the tokenizer that the model was trained with"
        )


def max_context(model: transformers.PreTrainedModel) -> int | None:
    """The longest input the model takes, in tokens, or None where its config does not say."""
    return getattr(model.config, "max_position_embeddings", None)


def settings(model: transformers.PreTrainedModel) -> dict:
    """The model's config without what does not change its results: where it came from, and who saved it."""
    incidental = ("_name_or_path", "architectures", "dtype", "transformers_version")
    return {name: value for name, value in model.config.to_dict().items() if name not in incidental}


def model_digest(model: transformers.PreTrainedModel) -> str:
    """A short hash of the config and of every weight as loaded, so of the dtype too."""
    digest = hashlib.sha256(json.dumps(settings(model), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def save_checkpoint(model: transformers.PreTrainedModel, tokenizer: TextTokenizer, folder: Path) -> None:
    """Write an ordinary Hugging Face checkpoint: config, safetensors and tokenizer."""
    save_weights(model, folder)
    tokenizer.save(folder)


def save_weights(model: transformers.PreTrainedModel, folder: Path) -> None:
    """Write config and safetensors; OSError where the disk is full or cannot be written."""
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if not code:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from None
