"""The command line: arguments, errors in one line, progress bars."""

import argparse
import dataclasses
import errno
import io
import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any

from tqdm import tqdm

from common.errors import InputError, one_line

INCOMPLETE = 3  # exit status: all is done but what the output names
# Packages whose exceptions report missing credentials, networks or endpoints; this project does not import them.
OBJECT_STORES = {"botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "adlfs"}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help shows the script's docstring and every default, and whose errors are one line."""

    def __init__(self, doc: str = "", **named: Any):
        super().__init__(description=doc, formatter_class=_HelpFormatter, **named)

    def error(self, message: str):
        self.exit(2, f"error: {one_line(message)} (--help lists the flags)\n")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action):
        default = action.default
        if default is None or default is False or default == [] or default is argparse.SUPPRESS or not action.help:
            return action.help
        return f"{action.help} (default: {_shown(default)})".replace("%", "%%")


def _shown(default: object) -> str:
    """A default as it is typed."""
    if isinstance(default, list):
        return " ".join(map(_shown, default))
    if isinstance(default, tuple):
        return "=".join(map(_shown, default))
    return f"{default:_}" if isinstance(default, int) and default > 9999 else str(default)


def options(kind: type, args: argparse.Namespace, **more: Any) -> Any:
    """An instance of the dataclass `kind`, its fields from the flags of the same names, or from `more`."""
    names = {field.name for field in dataclasses.fields(kind)} & vars(args).keys()
    return kind(**{name: getattr(args, name) for name in names} | more)


def command(script: str, **values: object) -> str:
    """A command with these flags; None and False leave a flag out, True gives it without a value."""
    parts = ["python", script]
    for name, value in values.items():
        if value is not None and value is not False:
            given = [] if value is True else value if isinstance(value, list) else [value]
            parts += [f"--{name}", *(shlex.quote(str(each)) for each in given)]
    return " ".join(parts)


def number(kind: type, low: float = -math.inf, high: float = math.inf, above: float = -math.inf) -> Callable:
    """Argument type: a finite number of `kind`, `low` to `high`, and more than `above`; 10_000_000 is a number too."""
    wanted = [f"at least {low:g}"] * (low > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    wanted += [f"at most {high:g}"] * (high < math.inf)

    def parse(text: str) -> float:
        try:
            value = kind(text)
            finite = math.isfinite(value)
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"{text!r} is not a {'whole ' * (kind is int)}number") from None
        if not (finite and low <= value <= high and value > above):
            raise argparse.ArgumentTypeError(f"{text} is not {' and '.join(wanted) if finite else 'finite'}")
        return value

    return parse


percentage = number(float, above=0, high=100)
fraction = number(float, low=0, high=1)
positive_float = number(float, above=0)
positive_int = number(int, low=1)
non_negative_int = number(int, low=0)


def share(text: str) -> float:
    """Argument type: `1%` or `0.01`; of numbers without % only those below 1, because 1 may be meant as 1%.

    >>> share("0.7%"), share("0.007")
    (0.007, 0.007)
    """
    if text.endswith("%"):
        return round(percentage(text[:-1]) / 100, 12)
    value = number(float, above=0)(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not below 1; write {text}% for a percentage")
    return value


def auto_or_positive_int(text: str) -> int | None:
    """Argument type: `auto`, which becomes None, or a whole number of at least 1."""
    return None if text == "auto" else positive_int(text)


def yes_or_no(text: str) -> bool:
    """Argument type: `yes` or `no`."""
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"{text!r} is not yes or no")
    return text == "yes"


def progress(total: int | None, description: str, unit: str = "tokens", iterable: Iterable | None = None) -> tqdm:
    """A progress bar on stderr with rate and time left, around `iterable` or moved by its `update`."""
    return tqdm(
        iterable,
        total=total,
        desc=description,
        unit=f" {unit}",
        unit_scale=True,
        smoothing=0.1,
        dynamic_ncols=True,
        mininterval=0.5,
    )


def skip(bar: tqdm, amount: int) -> None:
    """Advance a bar past the work of an earlier run; the rate ignores it."""
    if bar.disable:
        return
    bar.initial += amount
    bar.n += amount
    bar.last_print_n += amount
    bar.refresh()


def warn(message: str) -> None:
    """Show a warning on stderr, above a progress bar if there is one."""
    tqdm.write(f"warning: {one_line(message)}", sys.stderr)


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; an InputError, or a file that cannot be used, becomes one line on stderr and status 2.

    Ctrl-C exits with 130 and SIGTERM with 143, both after finished work has been saved. Any other exception is a bug
    and keeps its traceback.
    """
    terminated = []

    def terminate(*signal_and_frame) -> None:
        terminated.append(signal_and_frame)  # Ray may raise a KeyboardInterrupt of its own in place of this one
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()
        for stop in (signal.SIGINT, signal.SIGTERM):  # the work is done: a late signal must not turn it into a failure
            signal.signal(stop, signal.SIG_IGN)
    except InputError as error:
        sys.exit(_fail(error))
    except BrokenPipeError:  # the reader of our output, such as `head`, has stopped
        _drop_stdout()
        sys.exit(141)
    except OSError as error:
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        if error.filename is None:
            _drop_stdout()
        sys.exit(_fail(f"{error.filename or 'writing'}: {error.strerror}"))
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in OBJECT_STORES:
            raise
        sys.exit(_fail(f"the object store failed ({type(error).__name__}: {error}); finished work is kept"))
    except KeyboardInterrupt:
        print(
            "\nstopped: finished work is kept and nothing is half written; the same command (without --overwrite) "
            "continues",
            file=sys.stderr,
        )
        sys.exit(143 if terminated else 130)


def _drop_stdout() -> None:
    """Send the rest of stdout nowhere, so that the exit does not fail on it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(error: object) -> int:
    print("error: " + one_line(str(error)), file=sys.stderr)
    return 2
