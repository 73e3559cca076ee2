"""Errors of encryption: a key that is not here, is another one, or is gone for good."""

from __future__ import annotations

import shlex

from eventflow.errors.appending import Conflict, StoreUnusable
from eventflow.errors.reading import NotFound


class NoKey(StoreUnusable):
    """What is asked for is encrypted, and its key is not here.

    `wanted` is the id of the master key that would open it, if that is known; `todo` what to do, if not to give that.
    """

    def __init__(self, what: str, why: str = "its key is not here", *, wanted: str = "", todo: str = "") -> None:
        self.what, self.why, self.wanted = what, why, wanted
        super().__init__(f"{what} is encrypted and {why}; {todo or _give(wanted)}")


def _give(wanted: str) -> str:
    """How to give a master key, in each of the places where it can be named."""
    which = f"master key {wanted}" if wanted else "its master key"
    return (
        f"name the file of {which} with EVENTFLOW_KEY_FILE, with `key_file` in eventflow.toml, or with "
        f"Engine(keys=Keyring.from_file(...))"
    )


class WrongKey(NoKey):
    """The master key is not the one that this store's keys are wrapped with."""

    def __init__(self, what: str, given: str, wanted: str) -> None:
        self.given = given
        super().__init__(what, f"the given master key ({given or 'none'}) is not the one of its key", wanted=wanted)


class Shredded(NoKey):
    """What is asked for was encrypted, and its key was destroyed on purpose: nobody can read it any more."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.args = (
            f"{what} was shredded: its key was destroyed and its values are gone; its history can still be verified",
        )


class SubjectGone(Conflict):
    """A subject was shredded: nothing is recorded of it anew unless somebody says so."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(
            f"subject {subject!r} was shredded, so no new run of it is started; start it for another subject, or let this "
            f"one come back with `eventflow store keys readmit {shlex.quote(subject)}`"
        )


class KeyNotFound(NotFound):
    """No key belongs to a subject or a run of that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no key belongs to {name!r}; `eventflow store keys list` shows what there is")
