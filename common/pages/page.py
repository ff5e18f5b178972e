"""HTML pages that need no other file: a template of `common/pages/templates/`, with its data inside.

Data is put into a page as JSON and shown only through `textContent`, so that no document can add markup or a script.
The policy of a page forbids all requests.
"""

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import InputError
from common.files import atomic, refuse_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).with_name("templates")
DOTS_PER_INCH = 160


def check_page(path: Path) -> None:
    """Raise InputError if no page can be written to `path`."""
    if path.suffix != ".html":
        raise InputError(f"{path}: the name of a page ends with .html; rename it")
    refuse_folder(path)


def write_page(path: Path, template: str, data: dict, **markup: str) -> None:
    """Write a page, whole or not at all.

    Args:
        template: name of a file of `templates/`, in which `{{head}}`, `{{data}}`, `{{style}}`, `{{script}}` and the
            names of `markup` are replaced.
        data: the variable `data` of the page's script; without NaN.
        markup: HTML that is inserted unchanged.
    """
    parts = {
        "head": (FOLDER / "head.html").read_text(encoding="utf-8"),
        "style": (FOLDER / "base.css").read_text(encoding="utf-8"),
        "script": (FOLDER / "base.js").read_text(encoding="utf-8"),
        "data": embedded(data),
        **markup,
    }
    page = (FOLDER / template).read_text(encoding="utf-8")
    with atomic(path) as tmp:
        tmp.write_text(re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], page), encoding="utf-8", newline="\n")


def embedded(data: dict) -> str:
    """`data` as JSON that cannot end the script element that holds it.

    >>> embedded({"text": "</script>"})
    '{"text":"\\\\u003c/script>"}'
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return text.encode("utf-8", "backslashreplace").decode()  # half of a surrogate pair becomes a JSON escape


def picture(figure: "Figure", alt: str) -> str:
    """A drawing as an HTML element."""
    figure.savefig(png := io.BytesIO(), format="png", dpi=DOTS_PER_INCH)
    url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
    return f'<img src="{url}" alt="{html.escape(alt)}">'
