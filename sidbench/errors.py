"""Errors meant for people: what was given, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SidbenchError(Exception):
    """Something a person can put right. Shown without a traceback (unless --debug)."""


class UsageError(SidbenchError):
    """A wrong name, parameter or value: nothing was run. The command line exits with 2."""


class DataError(SidbenchError):
    """A dataset, SID file or record that does not hold what it must."""


class StorageError(SidbenchError):
    """The results folder takes no more: what follows could not be kept either, so a run ends with it."""


class RanksError(SidbenchError):
    """One of several processes that train together has ended, and so must the run."""


class ContractError(SidbenchError):
    """A plugin broke its contract: wrong shape, type, range or a write to its input."""


class UnsupportedError(SidbenchError):
    """An optional ability (`costs`, `reconstruct`) that this plugin does not declare."""


class NotFittedError(SidbenchError, AttributeError):
    """A learned attribute was read before `fit`; an AttributeError too, so hasattr keeps its meaning."""


#: Of more names than this only the nearest are said, so many at most.
FEW, CLOSE = 30, 4


def nearest(given: str, known: Iterable[str]) -> str:
    """What follows a name that nothing answers to: `; did you mean 'x'?`, or a full stop."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def unknown(kind: str, given: str, known: Iterable[str]) -> UsageError:
    """The one wording for a name that nothing answers to."""
    names = sorted(known)
    if len(names) <= FEW:
        said = f"Known: {', '.join(names) or 'none'}."
    else:
        others = difflib.get_close_matches(given, names, n=CLOSE, cutoff=0.5)[1:]
        near = f"Near it are also {', '.join(others)}. " if others else ""
        said = f"{near}`sidbench list` prints all {len(names)} that are known."
    return UsageError(f"unknown {kind} {given!r}{nearest(given, names)} {said}")
