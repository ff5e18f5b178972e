"""Chats as text: a tokenizer's own template renders them, and the answers are found in the text."""

import hashlib
import json

from common.errors import BadRow, InputError
from common.text.tokenization import TextTokenizer

ANSWERING = "assistant"


class ChatTemplate:
    """Renders chats with a tokenizer's template.

    Attributes:
        fingerprint: a short hash of the template.

    Raises:
        InputError: the tokenizer has none.
    """

    def __init__(self, tokenizer: TextTokenizer):
        self._hf = getattr(tokenizer, "hf", None)
        template = getattr(self._hf, "chat_template", None)
        if not template:
            raise InputError(
                f"{tokenizer.name}: it has no chat template, which --chat needs; use the tokenizer of a chat model"
            )
        self._special = sorted(
            {token.content for token in self._hf.added_tokens_decoder.values() if token.special}, key=len
        )
        self.fingerprint = hashlib.sha256(json.dumps(template).encode()).hexdigest()[:16]

    def render(self, place: str, messages: object) -> tuple[str, tuple[tuple[int, int], ...]]:
        """A chat as text, and the half-open spans of characters that are answers, each with the mark that ends it.

        An answer is the text that the template adds after the prompt for that answer, without white space at its end.

        Raises:
            BadRow: not a list of messages; no answer in it; a special token spelled in a message (it would become one);
                the template rejects the chat, or renders its beginning differently from the whole.
        """
        self._check(place, messages)
        whole, spans = self._text(place, messages), []
        for number, message in enumerate(messages):
            if message["role"] != ANSWERING:
                continue
            before = self._text(place, messages[:number], add_generation_prompt=True)
            after = self._text(place, messages[: number + 1])
            if not (whole.startswith(after) and after.startswith(before)):
                raise BadRow(
                    f"{place}: the chat template renders message {number + 1} differently alone and within the chat"
                )
            spans.append((len(before), max(len(before), len(after.rstrip()))))
        if not any(start < end for start, end in spans):
            raise BadRow(f"{place}: its answers are empty, so there is nothing to score")
        return whole, tuple(spans)

    def _check(self, place: str, messages: object) -> None:
        if not isinstance(messages, list):
            raise BadRow(f"{place}: the messages are a {type(messages).__name__}, not a list")
        for number, message in enumerate(messages, 1):
            if not isinstance(message, dict) or not all(isinstance(message.get(n), str) for n in ("role", "content")):
                raise BadRow(f'{place}: message {number} is not {{"role": text, "content": text}}')
            shown = json.dumps(message, ensure_ascii=False, default=str)  # a template may show all of it
            for token in self._special:
                if token in shown or json.dumps(token)[1:-1] in shown:
                    raise BadRow(f"{place}: message {number} spells the special token {token} and would become it")
        if messages and messages[0]["role"] == ANSWERING:
            raise BadRow(f"{place}: the first message is an answer; a question must come before it")
        if ANSWERING not in (message["role"] for message in messages):
            raise BadRow(f"{place}: no message of the role {ANSWERING!r}, so there is nothing to score")

    def _text(self, place: str, messages: list[dict], **how) -> str:
        try:
            return self._hf.apply_chat_template(messages, tokenize=False, **how)
        except Exception as error:  # templates raise many types
            raise BadRow(f"{place}: the chat template rejects it ({type(error).__name__}: {error})") from None
