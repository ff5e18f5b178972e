"""Text to token ids and back, with one interface for Hugging Face and tiktoken tokenizers."""

import copy
import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, pairwise
from pathlib import Path

import tiktoken
import tokenizers
import transformers
from tokenizers import normalizers, pre_tokenizers
from transformers.utils import cached_file

from common import cli
from common.errors import InputError
from common.hub import require_checkpoint

# Scripts, digits, code, white space and rare characters: tokenizers that agree on all of it count as the same.
FINGERPRINT_TEXT = (
    "The quick brown foxes didn't jump over 1,234,567.89 lazy dogs; they're THE internationalisation experts.\n"
    "def f(x_1: int = 0) -> list[str]:\n\treturn ['a' * i for i in range(10**3)]  # snake_case & CamelCase\n\n\n"
    "    <p class=\"x\">&amp;</p> {'key': null} \\frac{1}{2} https://example.org/?q=%20 a+b==c || d != e …\r\n"
    "naïve café Größe señor Привет мир Γειά σου שלום مرحبا नमस्ते 你好,世界。我们今天去学习 こんにちは 안녕하세요 "
    "∑∫√ 🙂👩‍🚀"
)
# Where classes of transformers differ from the files: long numbers, composed characters, upper case, white space.
HARD_TEXT = (
    "In 1999 and 20231 of 1234567 and 123456789012; I'LL DON'T WE'VE they'Re e\u0301 A\u030a ﬁ Ａ１ Ⅳ ｶﾞ \u00a0 \u3000\n"
    "          deep\n\n\n\t\t\tdeeper   \r\n ///// ====== ....... !!!?? #### __init__ <b></b>\u200b\ufeff   "
)
# The end of a text in pretraining, where a chat model's end-of-text token is the end of a turn; the first found counts.
ENDS_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "<eos>", "<EOS_TOKEN>", "</s>")
# tiktoken's patterns overflow their stack on white space of about a million characters.
LONG_SPACE = re.compile(r"\s{100000}(?=\s)")
SHOWN = 12  # special tokens in a message
# The environment variable from which the tokenizers library reads how many threads encode a batch.
NUM_THREADS = "RAYON_NUM_THREADS"


@dataclass(frozen=True)
class Vocabulary:
    """The token ids 0 to `size` - 1 of `owner`, a model or a tokenizer."""

    size: int
    owner: str

    def require(self, highest_id: int, where: str) -> None:
        """Raise InputError, which begins with `where`, if `highest_id` is not in the vocabulary."""
        if highest_id >= self.size:
            raise InputError(
                f"{where}: token id {highest_id} is beyond the vocabulary of {self.owner}, {self.size} tokens; use the "
                "tokenizer that the model was trained with, also to make the shards"
            )


class TextTokenizer:
    """A tokenizer.

    Special tokens that are spelled in the text are encoded as ordinary text; nothing is added around it.

    Attributes:
        name: what it was loaded from.
        vocab_size: its highest id, plus 1.
        highest_text_id: the highest id that a text can give, special tokens left out.
        separator_id: the end-of-text id, the last token of each document in our shards; None if it has none. Of a chat
            model, the one that ended texts in its pretraining (`ENDS_OF_TEXT`), if the vocabulary has it.
        bos_id: the id that the tokenizer itself puts before every text, None if it puts none there (0 is a valid id).
    """

    name: str
    vocab_size: int
    highest_text_id: int
    separator_id: int | None
    bos_id: int | None

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text."""
        raise NotImplementedError

    def decode(self, token_ids: list[int]) -> str:
        """The text of the ids; special tokens become their names."""
        raise NotImplementedError

    def use_separator(self, token: str) -> None:
        """Make a special token, given as text, the separator; InputError if the tokenizer has no such special token."""
        special = self.special_ids()
        if token not in special:
            known = ", ".join(sorted(special)[:SHOWN]) or "none"
            raise InputError(f"--separator {token}: no special token of {self.name}; it has {known}")
        self.separator_id = special[token]

    def special_ids(self) -> dict[str, int]:
        """The special tokens and their ids."""
        raise NotImplementedError

    def end_with_separator(self) -> None:
        """Make the separator the end-of-text token in the files that `save` writes."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files, if it has any, into a checkpoint's folder."""

    def encode(self, text: str) -> list[int]:
        """Token ids of one text."""
        return self.encode_batch([text])[0]

    def encode_with_offsets(self, text: str, special: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of one text and the half-open span of characters that each covers.

        Args:
            special: encode special tokens in the text, which a chat template put there, as special tokens.
        """
        raise NotImplementedError

    def pieces(self, token_ids: list[int]) -> list[str]:
        """The text of each token alone; half a character becomes U+FFFD."""
        # After a fixed token, because SentencePiece decoders drop a leading space.
        before = self.encode("a")[-1:]
        skip = len(self.decode(before))
        return [self.decode([*before, token_id])[skip:] for token_id in token_ids]

    @property
    def vocabulary(self) -> Vocabulary:
        """The ids that the tokenizer can produce."""
        return Vocabulary(self.vocab_size, self.name)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash, equal for tokenizers that cut text alike, whatever their file format."""
        return hashlib.sha256(json.dumps(self.encode(FINGERPRINT_TEXT)).encode()).hexdigest()[:16]


class _HuggingFaceTokenizer(TextTokenizer):
    def __init__(self, name: str, trust_remote_code: bool):
        transformers.logging.set_verbosity_error()
        require_checkpoint(name)
        self.name = name
        try:
            self.hf, self._for_chats = _load(name, trust_remote_code)
            self._read()
            readable = self.encode("a")
        except Exception as error:  # readers raise many types for a file that is missing or broken
            raise InputError(f"{name}: no tokenizer could be loaded ({_first_line(error)})") from None
        if not readable:
            raise InputError(f"{name}: its tokenizer makes no tokens from text; copy the checkpoint again")

    def _read(self) -> None:
        self._backend = copy.deepcopy(getattr(self.hf, "backend_tokenizer", None))
        if self._backend:  # the wrapper would set this at every call
            self._backend.encode_special_tokens = True
            self._backend.no_truncation()
            self._backend.no_padding()
        ids, special = set(self.hf.get_vocab().values()), self.special_ids()
        self.vocab_size = max(ids) + 1
        self.highest_text_id = max(ids - set(special.values()), default=0)
        ends = {name: special[name] for name in ENDS_OF_TEXT if name in special}
        self.separator_id = self.hf.eos_token_id
        if self.hf.eos_token not in ends:
            self.separator_id = next(iter(ends.values()), self.hf.eos_token_id)
        leading = self.hf("")["input_ids"][:1]
        self.bos_id = leading[0] if leading and leading[0] == self.hf.bos_token_id else None

    def special_ids(self):
        return {token.content: token_id for token_id, token in self.hf.added_tokens_decoder.items() if token.special}

    def end_with_separator(self):
        self.hf.eos_token = self.hf.convert_ids_to_tokens(self.separator_id)

    def save(self, folder):
        self.hf.save_pretrained(folder)
        own_code = not type(self.hf).__module__.startswith("transformers.")
        if self._backend and not own_code and not _auto_cuts_like_file(folder):
            transformers.PreTrainedTokenizerFast.from_pretrained(folder).save_pretrained(folder)  # names no other class
            if not _auto_cuts_like_file(folder):
                cli.warn(
                    "for a model of this type, transformers' AutoTokenizer cuts text otherwise than the saved "
                    "tokenizer.json; load it with PreTrainedTokenizerFast.from_pretrained (the scripts here do)"
                )

    def encode_batch(self, texts):
        if self._backend:  # the wrapper would take a fifth of the time
            return [encoding.ids for encoding in self._backend.encode_batch_fast(texts, add_special_tokens=False)]
        return self.hf(
            texts,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )["input_ids"]

    def encode_with_offsets(self, text, special=False):
        try:
            encoded = (self._for_chats if special else self.hf)(
                text, add_special_tokens=False, split_special_tokens=not special, return_offsets_mapping=True
            )
            return encoded["input_ids"], encoded["offset_mapping"]
        except (NotImplementedError, KeyError):  # some tokenizers in Python refuse, others leave the offsets out
            raise InputError(
                f"{self.name}: its tokenizer gives no character offsets, so probes and chats cannot be read"
            ) from None

    def decode(self, token_ids):
        return self.hf.decode(token_ids, clean_up_tokenization_spaces=False)


class _TiktokenTokenizer(TextTokenizer):
    def __init__(self, encoding: str):
        try:
            self._encoding = tiktoken.get_encoding(encoding)
        except ValueError as error:
            raise InputError(f"tiktoken:{encoding}: {_first_line(error)}") from None
        except OSError as error:
            raise InputError(
                f"tiktoken:{encoding}: its vocabulary could not be downloaded ({_first_line(error)}); set "
                "TIKTOKEN_CACHE_DIR to a folder that holds it"
            ) from None
        self.name = f"tiktoken:{encoding}"
        self.vocab_size = self._encoding.n_vocab
        self.highest_text_id = max({*range(self.vocab_size)} - {*self.special_ids().values()})
        self.separator_id = self._encoding.eot_token
        self.bos_id = None

    def special_ids(self):
        return {token: self._encoding.encode_single_token(token) for token in self._encoding.special_tokens_set}

    def encode_batch(self, texts):
        cut = [_cut_long_space(text) for text in texts]
        num_threads = int(os.environ.get(NUM_THREADS) or os.cpu_count() or 1)
        encoded = iter(self._encoding.encode_ordinary_batch([*chain.from_iterable(cut)], num_threads=num_threads))
        return [[*chain.from_iterable(islice(encoded, len(pieces)))] for pieces in cut]

    def encode_with_offsets(self, text, special=False):
        token_ids = self.encode(text)
        _, starts = self._encoding.decode_with_offsets(token_ids)
        return token_ids, list(zip(starts, [*starts[1:], len(text)], strict=True))

    def decode(self, token_ids):
        return self._encoding.decode(token_ids)


def _load(name: str, trust_remote_code: bool) -> tuple[transformers.PreTrainedTokenizerBase, ...]:
    """transformers' tokenizer, which must cut text as the checkpoint's own files say; and the one for chats.

    They differ only if SentencePiece's own file is all there is: a chat is cut as transformers cuts it, so that nothing
    is put between a special token and the text after it.
    """
    hf = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    path = cached_file(name, "tokenizer.json", _raise_exceptions_for_missing_entries=False)
    if path is None:
        for_chats = copy.deepcopy(hf)
        _keep_leading_space(hf)
        return hf, for_chats
    file = tokenizers.Tokenizer.from_file(path)
    if not _cuts_like(hf, file):  # the model's type or a declared class has overruled the file
        hf = transformers.PreTrainedTokenizerFast.from_pretrained(name)
        if not _cuts_like(hf, file):
            raise InputError("transformers cuts text otherwise than its tokenizer.json does; save it again")
    return hf, hf


def _auto_cuts_like_file(folder: Path) -> bool:
    """Whether AutoTokenizer, without code from the folder, cuts text as the folder's tokenizer.json says."""
    hf = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return _cuts_like(hf, tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer.json"))))


def _cuts_like(hf: transformers.PreTrainedTokenizerBase, file: tokenizers.Tokenizer) -> bool:
    file.no_truncation()
    file.no_padding()
    return all(
        hf(text, add_special_tokens=False)["input_ids"] == file.encode(text, add_special_tokens=False).ids
        for text in (FINGERPRINT_TEXT, "  " + FINGERPRINT_TEXT, HARD_TEXT)
    )


def _keep_leading_space(hf: transformers.PreTrainedTokenizerBase) -> None:
    """SentencePiece puts a space before every text, transformers only before one that does not begin with a space."""
    backend = getattr(hf, "backend_tokenizer", None)
    before = backend and backend.pre_tokenizer
    if isinstance(before, pre_tokenizers.Metaspace) and before.prepend_scheme != "never" and not before.split:
        mark = before.replacement
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(mark), normalizers.Replace(" ", mark)])
        backend.pre_tokenizer = None


def _cut_long_space(text: str) -> list[str]:
    """The text, cut within white space that is too long for tiktoken."""
    edges = [0, *(match.end() for match in LONG_SPACE.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def load_tokenizer(name: str, trust_remote_code: bool = False) -> TextTokenizer:
    """Load a Hugging Face tokenizer by name or folder, or a tiktoken encoding as `tiktoken:gpt2`.

    Raises:
        InputError: it does not exist, or cannot be read.
    """
    if name.startswith("tiktoken:"):
        return _TiktokenTokenizer(name.removeprefix("tiktoken:"))
    return _HuggingFaceTokenizer(name, trust_remote_code)


def use_threads(num_threads: int | None) -> None:
    """Set how many threads encode a batch, before a tokenizer is loaded; None is one for each core."""
    os.environ[NUM_THREADS] = str(num_threads or os.cpu_count() or 1)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
