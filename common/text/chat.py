"""Chats as text: a tokenizer's own template renders them, and the answers are found in the text."""

import hashlib
import json
import re
from bisect import bisect
from datetime import date
from itertools import takewhile

from transformers.utils import chat_template_utils

from common import cli
from common.errors import BadRow, InputError
from common.text.tokenization import TextTokenizer

ANSWERING = "assistant"
Span = tuple[int, int]
# The smallest pieces in which a template's texts are compared: <|im_end|> and <|im_start|> have no beginning in common.
PIECE = re.compile(r"[<\[]\S*?[>\]]|\w+|\W")


class ChatTemplate:
    """Renders chats with a tokenizer's template, its default one if it has several.

    Args:
        day: the date that the template prints if it asks for one; today by default, with a warning.

    Attributes:
        fingerprint: a short hash of the template.
        date: the date that it prints, None if it does not ask for one.

    Raises:
        InputError: the tokenizer has none, or none that renders a question and its answer; or no character offsets.
    """

    def __init__(self, tokenizer: TextTokenizer, day: date | None = None):
        hf = getattr(tokenizer, "hf", None)
        if not getattr(hf, "chat_template", None):
            raise InputError(
                f"{tokenizer.name}: it has no chat template, which --chat needs; use the tokenizer of a chat model"
            )
        today = day or date.today()
        self._variables = hf.special_tokens_map
        self._special = sorted({token.content for token in hf.added_tokens_decoder.values() if token.special}, key=len)
        self._marked, self._end = True, ""
        try:
            self._template = hf.get_chat_template()
            # transformers turns a function that is given as a variable into text.
            functions = chat_template_utils._compile_jinja_template(self._template).globals
            functions["strftime_now"] = today.strftime
            text = self._try()
        except Exception as error:  # templates raise many types
            raise InputError(
                f"{tokenizer.name}: its chat template cannot be used ({error}); mend it, or use another chat model's"
            ) from None
        tokenizer.encode_with_offsets(text, special=True)
        self.fingerprint = hashlib.sha256(json.dumps(self._template).encode()).hexdigest()[:16]
        self.date = today.isoformat() if "strftime_now" in self._template else None
        if self.date and not day:
            cli.warn(
                f"{tokenizer.name}: its chat template prints today's date, in this run {self.date}; give --chat_date "
                "YYYY-MM-DD, in every run the same, for the same shards on other days"
            )
        if day and not self.date:
            cli.warn(f"{tokenizer.name}: its chat template prints no date, so --chat_date changes nothing")

    def render(self, place: str, messages: object) -> tuple[str, tuple[Span, ...]]:
        """A chat as text, and the half-open spans of characters that are answers, each with the mark that ends it.

        Where the template marks its answers with `{% generation %}`, these are the answers. Otherwise an answer is the
        text that the template adds after the prompt for that answer. White space at its end is no part of it. An answer
        whose text the template drops has no span.

        Raises:
            BadRow: not a list of messages; no answer in it; a special token spelled in a message (it would become one);
                the template rejects the chat, or its answers are not found in the text.
        """
        self._check(place, messages)
        messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
        whole = _Rendered(self, place, messages)
        if self._marked:
            spans = [(start, start + len(whole.text[start:end].rstrip())) for start, end in whole.marked]
        else:
            numbers = [number for number, message in enumerate(messages) if message["role"] == ANSWERING]
            spans = list(filter(None, (self._answer(whole, number) for number in numbers)))
        if not any(start < end for start, end in spans):
            raise BadRow(f"{place}: its answers are empty, so there is nothing to score")
        edges = [edge for span in spans for edge in span]
        if edges != sorted(edges):
            raise BadRow(f"{place}: the chat template mixes its answers, so they cannot be told apart")
        return whole.text, tuple(spans)

    def text(self, place: str, messages: list[dict], prompt: bool) -> tuple[str, list[Span]]:
        """Messages as text, and the spans in it that the template marks as answers."""
        try:
            [text], marked = chat_template_utils.render_jinja_template(
                [messages],
                chat_template=self._template,
                return_assistant_tokens_mask=self._marked,
                add_generation_prompt=prompt,
                **self._variables,
            )
        except Exception as error:  # templates raise many types
            raise BadRow(
                f"{place}: the chat template rejects its first {len(messages)} messages "
                f"({type(error).__name__}: {error})"
            ) from None
        return text, marked[0] if marked else []

    def _answer(self, whole: "_Rendered", number: int) -> Span | None:
        """Where an answer is, None if the template drops its text."""
        before = whole.first(number, prompt=True)
        after = whole.first(number + 1)
        if whole.text.startswith(after.text) and after.text.startswith(before.text):
            return len(before.text), max(len(before.text), len(after.text.rstrip()))
        # The template writes earlier messages differently, or opens the answer in the prompt.
        content = whole.content(number) or (len(whole.text), len(whole.text))
        start = whole.repeats(before, number - 1, content[0])
        answer = whole.text[start : whole.repeats(after, number, len(whole.text))].rstrip()
        return None if self._end.startswith(answer) else (start, start + len(answer))

    def _try(self) -> str:
        """A plain chat as text; it also shows whether the template marks its answers, and the mark that ends them."""
        place = "question 'Is it day?', answer 'Yes.'"
        messages = [{"role": "user", "content": "Is it day?"}, {"role": ANSWERING, "content": "Yes."}]
        plain = _Rendered(self, place, messages)
        # transformers misplaces the marks in a macro.
        self._marked = any("Yes." in plain.text[start:end] for start, end in plain.marked)
        text, spans = self.render(place, messages)
        answer = "".join(text[start:end] for start, end in spans)
        _, shown, self._end = answer.rpartition("Yes.")
        if not shown:
            raise BadRow(f"{place}: the chat template makes the answer {answer!r}")
        return text

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


class _Rendered:
    """Messages as text.

    Args:
        prompt: with the prompt for an answer after them.

    Attributes:
        marked: the spans that the template itself marks as answers.
    """

    def __init__(self, template: ChatTemplate, place: str, messages: list[dict], prompt: bool = False):
        self._template, self._place, self._messages, self._prompt = template, place, messages, prompt
        self.text, self.marked = template.text(place, messages, prompt)
        self._contents: dict[int, Span | None] = {}

    def first(self, number: int, prompt: bool = False) -> "_Rendered":
        """The first messages alone."""
        if number == len(self._messages) and not prompt:
            return self
        return _Rendered(self._template, self._place, self._messages[:number], prompt)

    def content(self, number: int) -> Span | None:
        """Where the content of a message is, None if the template drops it."""
        if number not in self._contents:
            self._contents[number] = self._content(number)
        return self._contents[number]

    def _content(self, number: int) -> Span | None:
        """The place where the text is another if the content is."""
        mark = next(char for char in map(chr, range(0xE000, 0x110000)) if char not in self.text)
        messages = list(self._messages)
        messages[number] = {**messages[number], "content": mark}
        other, _ = self._template.text(self._place, messages, self._prompt)
        head, shown, tail = other.rpartition(mark)
        if not shown:
            return None
        if self.text.endswith(tail):
            return _common(self.text, head), len(self.text) - len(tail)
        if not self._messages[number]["content"].strip():
            return None
        raise BadRow(
            f"{self._place}: the content of message {number + 1} is not found in the text of the chat template"
        )

    def repeats(self, other: "_Rendered", number: int, limit: int) -> int:
        """How far this text repeats another after the content of message `number`.

        It counts from the next message back if the template drops that one or writes it after `limit`; and goes beyond
        `limit` only if it repeats all of the other text.
        """
        if self.text.startswith(other.text):
            return len(other.text)
        contents = ((self.content(n), other.content(n)) for n in range(number, -1, -1))
        ends = ((mine[1], its[1]) for mine, its in contents if mine and its and mine[1] <= limit)
        here, there = next(ends, (0, 0))
        if self.text.startswith(other.text[there:], here):
            return here + len(other.text) - there
        pieces = zip(PIECE.finditer(self.text, here), PIECE.finditer(other.text, there), strict=False)
        same = takewhile(lambda pair: pair[0][0] == pair[1][0], pieces)
        return min(limit, max((piece.end() for piece, _ in same), default=here))


def _common(one: str, other: str) -> int:
    """The number of characters that two texts have in common at their beginnings."""
    return bisect(range(1, min(len(one), len(other)) + 1), False, key=lambda length: one[:length] != other[:length])
