"""Ed25519 keys (RFC 8032) that sign notes: made, kept in files, asked whether a signature holds.

Keys are written as the Go implementation of signed notes writes them, so that its tools read ours and ours theirs. What is
signed is not this file's business.
"""

from __future__ import annotations

import base64
import os.path
from dataclasses import dataclass, field
from pathlib import Path

from eventflow.cipher.files import write_new
from eventflow.errors import ProofFailed, SettingsError
from eventflow.proof.note import ED25519, Note, Signature, from_base64, is_key_name, key_id

MAX_KEY_FILE = 4_096  # bytes; a key takes two hundred
_PRIVATE = "PRIVATE+KEY+"
_SIZE = 32  # bytes of an Ed25519 key, of either half


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The half that checks: its name, and 32 bytes. Its text is `NAME+ID+BASE64`."""

    name: str
    raw: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes by which notes name it."""
        return key_id(self.name, self.raw)

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.raw).decode()}"


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The half that signs: its name, and 32 bytes that nobody else may see."""

    name: str
    seed: bytes = field(repr=False)

    @property
    def public(self) -> PublicKey:
        """The half that checks."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - 60 ms

        return PublicKey(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def secret_text(self) -> str:
        """What a file of it holds."""
        coded = base64.b64encode(ED25519 + self.seed).decode()
        return f"{_PRIVATE}{self.name}+{self.public.key_id.hex()}+{coded}"

    def signed(self, text: str) -> Note:
        """A text, which ends in a newline, with this key's signature under it."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - 60 ms

        data = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())
        return Note(text, (Signature(self.name, self.public.key_id, data),))


def new_key(name: str) -> SigningKey:
    """A fresh key. Raises SettingsError for a name that no key can have."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - 60 ms

    if not is_key_name(name):
        raise SettingsError(f"{name!r} can't name a key: no spaces and no plus may be in it")
    return SigningKey(name, Ed25519PrivateKey.generate().private_bytes_raw())


def check_signed(note: Note, key: PublicKey) -> None:
    """Raise ProofFailed unless a note is signed by a key: each signature that names it must hold, and one must be there."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - 60 ms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415

    mine = [one for one in note.signatures if (one.name, one.key_id) == (key.name, key.key_id)]
    if not mine:
        raise ProofFailed("the seal", f"is not signed by the key {key.name}+{key.key_id.hex()}")
    for one in mine:
        try:
            Ed25519PublicKey.from_public_bytes(key.raw).verify(one.data, note.text.encode())
        except InvalidSignature:
            raise ProofFailed("the seal", f"has a signature in the name of {key.name} that does not hold") from None


# --- files ---------------------------------------------------------------------------------------------------------


def write_key(path: Path, key: SigningKey) -> None:
    """Write a key to a new file of mode 0600. Raises SettingsError if there is one already."""
    write_new(path, f"{key.secret_text()}\n".encode())


def read_signing_key(path: Path) -> SigningKey:
    """A key from its file, which nobody else may read. Raises SettingsError."""
    text = _read(path)
    if path.stat().st_mode & 0o077:
        raise SettingsError(f"{path} can be read by others; run chmod 600 on it, or make a new key")
    if not text.startswith(_PRIVATE):
        raise SettingsError(f"{path} holds no key that signs; `eventflow store keygen FILE` makes one")
    name, given, seed = _parts(text.removeprefix(_PRIVATE), str(path))
    key = SigningKey(name, seed)
    if key.public.key_id.hex() != given:
        raise SettingsError(f"{path} was damaged: the key is not the one that its id names")
    return key


def public_key(text: str) -> PublicKey:
    """A public key from its text, or from the file that holds it. Raises SettingsError."""
    where = "the key"
    if "+" not in text or os.path.isfile(text):  # noqa: PTH113 - Path.is_file raises for what can be no name of a file
        where, text = text, _read(Path(text))
    if text.startswith(_PRIVATE):
        raise SettingsError(f"{where} holds the key that signs; give the other half, which `keygen` printed")
    name, given, raw = _parts(text, where)
    key = PublicKey(name, raw)
    if key.key_id.hex() != given:
        raise SettingsError(f"{where} was damaged: it is not the key that its id names")
    return key


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_FILE).decode().strip()
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); give the file of a key") from None
    except ValueError:  # no text, or a path with a NUL
        raise SettingsError(f"{path} is not the file of a key") from None


def _parts(text: str, where: str) -> tuple[str, str, bytes]:
    """Name, id and 32 bytes from the text of a key. Raises SettingsError."""
    name, _, rest = text.partition("+")
    given, _, coded = rest.partition("+")
    data = from_base64(coded)
    if not is_key_name(name) or data is None or len(data) != 1 + _SIZE or data[:1] != ED25519:
        raise SettingsError(f"{where} is no Ed25519 key; it has the form NAME+ID+BASE64")
    return name, given, data[1:]
