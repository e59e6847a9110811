"""Errors in a user's input. Every message says what must hold, what came, and what to do."""


class PabtuneError(Exception):
    """Bad usage or bad input. The command line prints the message and exits with code 2."""


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


class BudgetError(PabtuneError):
    """A budget that cannot be read or checked."""


class FileError(PabtuneError):
    """A file that cannot be read or written."""


class StudyError(PabtuneError):
    """A study that does not fit the search that wants to continue it."""


class ParallelError(PabtuneError):
    """A run on several processes that cannot go on, and which of them is why."""
