"""Errors of encryption: a key that is not here, is another one, or is gone for good."""

from __future__ import annotations

from eventflow.errors.appending import StoreUnusable
from eventflow.errors.reading import NotFound


class NoKey(StoreUnusable):
    """What is asked for is encrypted, and its key is not here."""

    def __init__(self, what: str, why: str = "its key is not here") -> None:
        self.what, self.why = what, why
        super().__init__(
            f"{what} is encrypted and {why}; give the key with EVENTFLOW_KEY_FILE or Engine(keys=...), or restore keys/"
        )


class WrongKey(NoKey):
    """The master key is not the one that this store's keys are wrapped with."""

    def __init__(self, what: str, given: str, wanted: str) -> None:
        self.given, self.wanted = given, wanted
        super().__init__(what, f"the given key ({given or 'none'}) is not the one it is wrapped with ({wanted})")


class Shredded(NoKey):
    """What is asked for was encrypted, and its key was destroyed on purpose: nobody can read it any more."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.args = (
            f"{what} was shredded: its key was destroyed and its values are gone; its history can still be verified",
        )


class KeyNotFound(NotFound):
    """No key belongs to a subject or a run of that name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no key belongs to {name!r}; `eventflow store keys list` shows what there is")
