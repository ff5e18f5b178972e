"""Loading and saving models: on which device, in which precision, and a digest that identifies their weights."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError

from common.errors import InputError
from common.hub import require_checkpoint
from common.model.attention import ATTENTION_NAME
from common.text.tokenization import TextTokenizer, Vocabulary, load_tokenizer


@dataclass(frozen=True)
class Runtime:
    """Where a model runs, and how it is loaded.

    Attributes:
        device: auto (CUDA if there is one, otherwise CPU) or a torch device.
        dtype: auto (bfloat16 on CUDA, otherwise float32), checkpoint (as it is stored) or the name of a torch dtype.
        tokenizer: name of the tokenizer, or None for the model's own.
        trust_remote_code: run Python code that comes with the checkpoint.
    """

    device: str = "auto"
    dtype: str = "auto"
    tokenizer: str | None = None
    trust_remote_code: bool = False


class _AsPublished(transformers.GenerationConfig):
    """Generation settings that are saved as they were loaded, also where transformers reads them but refuses to save.

    An example is a temperature without sampling, as in Llama 2. Greedy generation does not use it.
    """

    def validate(self, *_args, **_settings) -> None:
        pass


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
    require_checkpoint(name)
    device = resolve_device(runtime.device)
    dtypes = {"auto": torch.bfloat16 if device.type == "cuda" else torch.float32, "checkpoint": "auto"}
    dtype = dtypes.get(runtime.dtype) or getattr(torch, runtime.dtype)
    try:
        try:
            model, report = _from_pretrained(name, ATTENTION_NAME, dtype, runtime)
        except KeyError as error:
            if error.args != (ATTENTION_NAME,):
                raise
            # a class that knows only its own attention functions; it is refused later, with the reason
            model, report = _from_pretrained(name, "eager", dtype, runtime)
    except Exception as error:  # readers raise many types for a checkpoint that is missing or damaged
        raise InputError(
            f"{name}: no causal language model could be loaded ({type(error).__name__}: {error}); check the folder, "
            "or copy the checkpoint again"
        ) from None
    _check_weights(name, model, report)
    if type(model.generation_config) is transformers.GenerationConfig:
        model.generation_config.__class__ = _AsPublished
    return model.to(device).eval()


def _from_pretrained(name: str, attention: str, dtype: torch.dtype | str, runtime: Runtime):
    return transformers.AutoModelForCausalLM.from_pretrained(
        name,
        attn_implementation=attention,
        dtype=dtype,
        trust_remote_code=runtime.trust_remote_code,
        output_loading_info=True,
    )


def _check_weights(name: str, model: transformers.PreTrainedModel, report: dict) -> None:
    """Raise InputError if tensors are missing, of too many layers or not finite."""
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise InputError(f"{name}: the checkpoint lacks {len(missing)} tensors, such as {missing[0]}; copy it again")
    layers = [re.search(r"\.(\d+)\.", key) for key in report["unexpected_keys"]]
    count = getattr(model.config, "num_hidden_layers", None)
    if count is not None and any(match and int(match[1]) >= count for match in layers):
        raise InputError(f"{name}: the checkpoint has more layers than the {count} of its config.json; fix the config")
    for tensor_name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(
                f"{name}: tensor {tensor_name} holds values that are not finite in {tensor.dtype}; copy the checkpoint "
                "again, or use a wider --dtype"
            )


def load_model_tokenizer(name: str, runtime: Runtime) -> TextTokenizer:
    """The tokenizer in the model's folder, or the one that `runtime` names."""
    return load_tokenizer(runtime.tokenizer or name, runtime.trust_remote_code)


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA if there is one, otherwise the CPU; InputError for a device that torch cannot use."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        target = torch.device(device)
        torch.zeros(1, device=target).item()  # which a device without memory, such as `meta`, cannot do
    except (RuntimeError, AssertionError, ImportError) as error:
        raise InputError(f"--device {device}: {error}") from None
    return target


def vocabulary(model: transformers.PreTrainedModel) -> Vocabulary:
    """The token ids that the model has an embedding for."""
    return Vocabulary(model.get_input_embeddings().weight.shape[0], model.name_or_path or "the model")


def require_tokenizer(model: transformers.PreTrainedModel, tokenizer: TextTokenizer) -> None:
    """Raise InputError if the tokenizer gives ids that the model has no embedding for."""
    given = (tokenizer.highest_text_id, tokenizer.separator_id, tokenizer.bos_id)
    highest_id = max(token_id for token_id in given if token_id is not None)
    vocabulary(model).require(highest_id, f"{tokenizer.name}: the highest id that this tokenizer gives")


def require_context(model: transformers.PreTrainedModel, length: int, what: str, fix: str) -> None:
    """Raise InputError if `what`, of `length` tokens, is longer than the model's context, if the config states one."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and length > limit:
        owner = model.name_or_path or "the model"
        raise InputError(f"{what}: {length} tokens, but the context of {owner} holds {limit}; {fix.format(limit)}")


def config_settings(model: transformers.PreTrainedModel) -> dict:
    """The model's config without the entries that do not change its results (its origin, and who saved it)."""
    incidental = ("_name_or_path", "architectures", "dtype", "transformers_version")
    return {name: value for name, value in model.config.to_dict().items() if name not in incidental}


def model_digest(model: transformers.PreTrainedModel) -> str:
    """A short hash of the config and of every weight as loaded, so it depends on the dtype too."""
    digest = hashlib.sha256(json.dumps(config_settings(model), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def save_checkpoint(model: transformers.PreTrainedModel, tokenizer: TextTokenizer, folder: Path) -> None:
    """Write an ordinary Hugging Face checkpoint: config, safetensors and tokenizer."""
    save_weights(model, folder)
    tokenizer.save(folder)


def save_weights(model: transformers.PreTrainedModel, folder: Path) -> None:
    """Write config and safetensors; OSError if the disk is full or cannot be written."""
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if not code:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from None
