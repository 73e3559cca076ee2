"""Master keys: what the keys of a store are wrapped with. From a file, the environment, the system's keyring, or a KMS.

A master key never encrypts a value; it wraps data keys, so that replacing it costs a small file for each of those and no
event is touched. A key management service stands in by two methods, `wrap` and `unwrap`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from eventflow.cipher.cose import KEY_SIZE, Sealer, bound
from eventflow.cipher.files import read_private, write_new
from eventflow.errors import Corrupt, EventflowError, SettingsError, StoreUnusable

KEY_VARIABLE, FILE_VARIABLE = "EVENTFLOW_KEY", "EVENTFLOW_KEY_FILE"
_PREFIX = "EVENTFLOW+MASTER+1+"
_SERVICE = "eventflow"  # under which the system's keyring holds master keys
_MAX_FILE = 4_096  # bytes; a key takes seventy


class Kms(Protocol):
    """Somebody who keeps a master key and wraps data keys with it: a key management service, a hardware module."""

    @property
    def id(self) -> str:
        """The master key's name, which stands beside what it wrapped; no secret."""
        ...

    def wrap(self, secret: bytes, about: bytes) -> bytes:
        """32 bytes, encrypted, and bound to `about` (the service's "encryption context")."""
        ...

    def unwrap(self, wrapped: bytes, about: bytes) -> bytes:
        """The 32 bytes again; raises whatever it likes if they were changed or bound to something else."""
        ...


class MasterKey:
    """A master key of 32 random bytes, held in this process."""

    __slots__ = ("_sealer", "_secret", "id")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_SIZE:
            raise SettingsError(
                f"a master key has {KEY_SIZE} bytes, this one {len(secret)}; `store keys init` makes one"
            )
        self._secret = secret
        self.id = hashlib.sha256(b"eventflow/1 master" + secret).hexdigest()[:16]
        self._sealer = Sealer(secret)

    def __repr__(self) -> str:
        return f"MasterKey({self.id})"

    def text(self) -> str:
        """What a file of it holds."""
        return _PREFIX + base64.b64encode(self._secret).decode()

    def wrap(self, secret: bytes, about: bytes) -> bytes:
        """A COSE_Encrypt0 of a data key."""
        return self._sealer.sealed(secret, bound(about), _known(about))

    def unwrap(self, wrapped: bytes, about: bytes) -> bytes:
        """The data key again. Raises Corrupt."""
        return self._sealer.opened(wrapped, bound(about), _known(about), "a wrapped key")


def _known(about: bytes) -> bytes:
    return hashlib.sha256(about).digest()[:6]


def master_from_text(text: str, where: str) -> MasterKey:
    """A master key from what a file or a variable holds. Raises SettingsError, which does not repeat it."""
    try:
        secret = base64.b64decode(text.strip().removeprefix(_PREFIX), validate=True)
    except ValueError:
        raise SettingsError(f"{where} holds no master key; `eventflow store keys init` makes one") from None
    if len(secret) != KEY_SIZE:
        raise SettingsError(f"{where} holds no master key of {KEY_SIZE} bytes; `eventflow store keys init` makes one")
    return MasterKey(secret)


def new_master(path: Path) -> MasterKey:
    """A fresh master key in a new file of mode 0600. Raises SettingsError if there is one already."""
    master = MasterKey(secrets.token_bytes(KEY_SIZE))
    write_new(path, f"{master.text()}\n".encode())
    return master


def master_from_file(path: str | os.PathLike[str]) -> MasterKey:
    """The master key in a file, which nobody else may read. Raises SettingsError."""
    data = read_private(Path(path), _MAX_FILE)
    return master_from_text(data.decode("ascii", "replace"), str(path))


def master_from_environment(name: str = KEY_VARIABLE) -> MasterKey:
    """The master key in an environment variable, in base64. Raises SettingsError."""
    text = os.environ.get(name)
    if not text:
        raise SettingsError(f"{name} is not set; put the master key there, in base64")
    return master_from_text(text, name)


def master_from_system(name: str) -> MasterKey:
    """The master key that the system's keyring holds under a name. Raises SettingsError."""
    try:
        import keyring  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - optional
    except ImportError:
        raise SettingsError("the package keyring is not installed, and this needs it: pip install keyring") from None
    try:
        text = keyring.get_password(_SERVICE, name)
    except Exception as error:  # noqa: BLE001 - each of its backends raises what it likes: none is there, it is locked
        raise SettingsError(f"the system's keyring can't be read ({error}); unlock it, or use a key file") from None
    if not text:
        raise SettingsError(
            f"the system's keyring has no key {name!r} of {_SERVICE!r}; put one there with `keyring set`"
        )
    return master_from_text(text, f"the system's keyring ({name})")


def wrapped_by(kms: Kms, secret: bytes, about: bytes) -> bytes:
    """What a master key makes of a data key. Raises StoreUnusable if its service does not."""
    return _asked(kms, kms.wrap, secret, about)


def _asked(kms: Kms, call: Callable[[bytes, bytes], bytes], data: bytes, about: bytes) -> bytes:
    """What a service answers. What it raises is of the run that needs the key, not of all that are written with it."""
    try:
        return call(data, about)
    except EventflowError:
        raise
    except Exception as error:
        raise StoreUnusable(
            f"the service of master key {kms.id} does not answer ({type(error).__name__}: {error}); "
            f"look what is wrong with it, then try again"
        ) from error


def unwrapped(kms: Kms, wrapped: bytes, about: bytes, where: str) -> bytes:
    """A data key from what a master key made of it. Raises Corrupt, StoreUnusable if its service does not answer."""
    try:
        secret = _asked(kms, kms.unwrap, wrapped, about)
    except Corrupt:
        raise Corrupt(where, "does not open with its master key: it was changed, or it is of another place") from None
    if len(secret) != KEY_SIZE:
        raise Corrupt(where, "is not a key")
    return secret
