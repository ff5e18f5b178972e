"""The edge to the shell: arguments, errors in one line, progress bars, text that is safe to print."""

import argparse
import errno
import io
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable

from tqdm import tqdm

from common.errors import InputError, one_line
from common.text.corpus import BadRows

# Packages whose exceptions tell of no credentials, no network, no such endpoint: not ours to import.
OBJECT_STORES = {"botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "adlfs"}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose help shows the script's docstring and every default, and whose errors are one line."""

    def __init__(self, doc: str):
        super().__init__(description=doc, formatter_class=_HelpFormatter)

    def error(self, message: str):
        self.exit(2, f"error: {one_line(message)} (--help lists the flags)\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def percentage(text: str) -> float:
    """Argument type: a number in (0, 100]."""
    value = _number(text, float)
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text} is outside (0, 100]")
    return value


def fraction(text: str) -> float:
    """Argument type: a number in [0, 1]."""
    value = _number(text, float)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is outside [0, 1]")
    return value


def positive_float(text: str) -> float:
    """Argument type: a number above 0."""
    value = _number(text, float)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def head(text: str) -> tuple[int, int]:
    """Argument type: an attention head as `layer,head`."""
    try:
        layer, index = map(int, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not `layer,head`") from None
    return layer, index


def positive_int(text: str) -> int:
    """Argument type: a whole number of at least 1; 10_000_000 is fine."""
    value = _number(text, int)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return value


def non_negative_int(text: str) -> int:
    """Argument type: a whole number of at least 0."""
    value = _number(text, int)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 0")
    return value


def auto_or_positive_int(text: str) -> int | None:
    """Argument type: `auto`, which reads as None, or a whole number of at least 1."""
    return None if text == "auto" else positive_int(text)


def _number(text: str, kind: type) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value


def progress(total: int | None, description: str, unit: str = "tokens", iterable: Iterable | None = None) -> tqdm:
    """A progress bar on stderr with rate and time left, around `iterable` or advanced by its `update`."""
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
    """Advance a bar over what an earlier run did, without counting it into the rate."""
    bar.initial += amount
    bar.n += amount
    bar.last_print_n += amount
    bar.refresh()


def warn(message: str) -> None:
    """Show a warning on stderr, above a progress bar if there is one."""
    tqdm.write(f"warning: {one_line(message)}", sys.stderr)


def report_skipped(bad_rows: BadRows) -> None:
    """Say how many rows of a corpus were skipped, if any were."""
    if bad_rows.count:
        print(f"skipped {bad_rows.count:,} rows that could not be used, the first: {one_line(bad_rows.first)}")


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; an InputError, or a file that cannot be used, becomes one line on stderr and status 2.

    Ctrl-C exits with 130, SIGTERM with 143, both after what is finished has been saved. Any other exception is a bug
    and keeps its traceback.
    """
    signal.signal(signal.SIGTERM, _terminate)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
        if sys.stdout:
            sys.stdout.flush()
        for stop in (signal.SIGINT, signal.SIGTERM):  # all is done: what comes now must not make it look undone
            signal.signal(stop, signal.SIG_IGN)
    except InputError as error:
        sys.exit(_fail(error))
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
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
        sys.exit(_fail(f"the object store did not do it ({type(error).__name__}: {error}); finished work is kept"))
    except KeyboardInterrupt as stopped:
        print(
            "\nstopped: finished work is kept and nothing half written is left; the same command (without --overwrite) "
            "goes on",
            file=sys.stderr,
        )
        sys.exit(143 if isinstance(stopped, Terminated) else 130)


def _drop_stdout() -> None:
    """Have what is still to be written to stdout go nowhere, so that the exit does not fail on it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a script as Ctrl-C does."""


def _terminate(_signal, _frame):
    raise Terminated


def _fail(error: object) -> int:
    print("error: " + one_line(str(error)), file=sys.stderr)
    return 2
