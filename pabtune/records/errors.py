"""Errors in a user's input. Every message says what must hold, what came, and what to do, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 480
"""Most characters of a message: of a longer one, which quotes what came, the middle is left out."""

TAIL = 180
"""Characters of its end that stay: they say what to do."""


def one_line(text: object, longest: int = LONGEST) -> str:
    """A text as one line of at most so many printable characters.

    White space becomes a space, what cannot be printed its escape sequence. Of a longer text the middle is left out.
    """
    whole = str(text)
    if len(whole) > 4 * longest:  # what is left out is not worth looking at
        whole = f"{whole[: 2 * longest]} … {whole[-2 * longest :]}"
    line = "".join(each if each.isprintable() else _escaped(each) for each in " ".join(whole.split()))
    tail = min(TAIL, longest // 2)
    return line if len(line) <= longest else f"{line[: longest - tail - 3]} … {line[-tail:]}"


def first_line(error: BaseException) -> str:
    """What an exception of another library says first, or its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


class PabtuneError(Exception):
    """Bad usage or bad input. The command line prints the message, which is one line, and exits with code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@contextmanager
def as_error(kind: type[PabtuneError], what: str) -> Iterator[None]:
    """Turns any exception of other people's code into an error of a kind: what went wrong, its type and its first line."""
    try:
        yield
    except PabtuneError:
        raise
    except Exception as error:  # noqa: BLE001, each class refuses wrong values in its own way
        raise kind(f"{what}: {type(error).__name__}: {first_line(error)}") from error


class PabtuneWarning(UserWarning):
    """Something that works, but hardly as the user meant it."""


class PromptError(PabtuneError):
    """A prompt that the model cannot understand."""


class PolicyError(PabtuneError):
    """A policy that is malformed, or does not fit the model or run that it is used with."""


class ProfileError(PabtuneError):
    """A profile that is malformed, or lacks measurements that are needed."""


class ModelError(PabtuneError):
    """A model that cannot be found, loaded, or intercepted."""


class FitError(ModelError):
    """A model on which schedules of whole calls cannot be fitted, and why."""


class BudgetError(PabtuneError):
    """A budget that cannot be read or checked."""


class MethodError(PabtuneError):
    """A method of the literature that is unknown, or is asked for what its knob does not allow."""


class MeasureError(PabtuneError):
    """A measure of fidelity that cannot be taken here, and what it lacks."""


class FileError(PabtuneError):
    """A file that cannot be read or written."""


class VbenchError(PabtuneError):
    """VBench, its environment, its files or its scores: what is missing or wrong."""


class StudyError(PabtuneError):
    """A study that does not fit the search that wants to continue it."""


class ParallelError(PabtuneError):
    """A run on several processes that cannot go on, and which of them is why."""
