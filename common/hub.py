"""Names of checkpoints: a folder on this machine, or a repository of the Hugging Face hub."""

from pathlib import Path

from common.errors import InputError, one_line

DEFAULT_MODEL = "hfl/chinese-llama-2-1.3b"
# One of them shows that a repository is in the cache.
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
TIMEOUT = 10  # seconds
REASON_CHARS = 200


def require_checkpoint(name: str) -> None:
    """Raise InputError at once if there is neither a folder of this name nor a repository on the hub or in its cache.

    The hub is asked once; transformers would ask for most of a minute, with a line for each time.
    """
    path = Path(name)
    if path.exists():
        return
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        huggingface_hub.utils.validate_repo_id(name)
        is_path = path.parent != Path() and path.parent.exists()
    except HFValidationError:
        is_path = True
    if is_path:
        raise InputError(f"{name}: no such file or folder; check the path")
    if any(isinstance(huggingface_hub.try_to_load_from_cache(name, file), str) for file in FILES):
        return
    try:
        huggingface_hub.HfApi().model_info(name, timeout=TIMEOUT)
    except GatedRepoError:
        return  # transformers says what to do
    except RepositoryNotFoundError:
        raise InputError(f"{name}: no such folder, and no such model on the hub; check the name, or log in") from None
    except Exception as error:  # networks raise many types
        reason = one_line(f"{type(error).__name__}: {error}")[:REASON_CHARS]
        raise InputError(f"{name}: no such folder, and the hub cannot be asked ({reason})") from None
