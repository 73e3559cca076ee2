"""Commands about proofs that leave the store: prove, check-proof."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from eventflow.address import resolve
from eventflow.cipher.signing import public_key
from eventflow.cli.shell import (
    OK,
    FormatArg,
    StoreArg,
    argument,
    open_store,
    print_exact,
    print_json,
    store_path,
    time_text,
    visible,
)
from eventflow.errors import ProofFailed, SettingsError
from eventflow.proof.files import MAX_PROOF, parse_proof
from eventflow.proof.note import TreeHead
from eventflow.sealing import covering, kept_seals, read_seal
from replay.proving import Proven, check, position_of, prove_continued, prove_event

PROOF = "eventflow.proof/1"
SealArg = Annotated[str | None, argument(name="--seal", help="The file of the seal; else the newest one that is kept.")]
OldArg = Annotated[
    str | None, argument(name="--consistency", help="The file of an older seal: prove that the newer one continues it.")
]
TrustedArg = Annotated[str, argument(name="--key", help="The public key you trust, or the file that holds it.")]


def prove_(
    address: str | None = None, /, *, consistency: OldArg = None, seal: SealArg = None, store: StoreArg = None
) -> int:  # fmt: skip
    """Print a proof that an event is in what was sealed, or that a seal continues an older one.

    Parameters
    ----------
    address
        The event: RUN@17, RUN@c-17 or RUN@2026-11-24T10:00Z.
    """
    if (address is None) is (consistency is None):
        raise SettingsError("say what to prove: an event as RUN@17, or --consistency and an older seal")
    opened = open_store(store)
    try:
        given = None if seal is None else read_seal(Path(seal))
        if consistency is not None:
            old = read_seal(Path(consistency))
            proof: Any = prove_continued(opened, old, given or covering(_kept(store), old.head.size))
        else:
            position = position_of(opened, resolve(opened, str(address)))
            proof = prove_event(opened, position, given or covering(_kept(store), position))
    finally:
        opened.close()
    print_exact(str(proof))
    return OK


def _kept(store: str | None) -> list[Any]:
    return kept_seals(Path(store_path(store)))


def check_proof(file: str, /, *, key: TrustedArg, seal: SealArg = None, output: FormatArg = "table") -> int:
    """Check a proof without the store: exit code 4 if it does not hold.

    Parameters
    ----------
    file
        The file of the proof.
    """
    trusted = public_key(key)
    proof = parse_proof(_read(Path(file)))
    proven = check(proof, trusted, None if seal is None else read_seal(Path(seal)).note)
    if output != "table":
        document = {"schema": PROOF, "holds": True, "key": str(trusted), "seals": list(map(_head_row, proven.heads))}
        print_json({**document, "event": _event_row(proven)}, lines=output == "jsonl")
        return OK
    for line in _lines(proven):
        print(visible(line))
    return OK


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_PROOF + 1).decode()
    except OSError as error:
        raise SettingsError(f"{path} can't be read ({error.strerror}); give the file of a proof") from None
    except UnicodeDecodeError:
        raise ProofFailed(str(path), "is not the text of a proof") from None


def _head_row(head: TreeHead) -> dict[str, Any]:
    return {"origin": head.origin, "size": head.size, "root": head.root.hex()}


def _event_row(proven: Proven) -> dict[str, Any] | None:
    event: Any = proven.event
    if event is None:
        return None
    hexed = {name: event[name].hex() for name in ("digest", "run_key")}
    return {**event, **hexed, "time": time_text(event["time"])}


def _lines(proven: Proven) -> list[str]:
    row, newest = _event_row(proven), proven.heads[-1]
    if row is None:
        old = proven.heads[0]
        return [
            f"the {old.size} events of the older seal are the first of the {newest.size} of the newer one, {newest.origin}"
        ]
    told = [f"{name}: {value}" for name, value in row["header"].items() if isinstance(value, str | int) and value != ""]
    return [
        f"the event is number {row['position']} of the {newest.size} that are sealed, {newest.origin}",
        f"{row['type']}, version {row['version']} of the run with key {row['run_key']}, {row['time']}",
        *([", ".join(told)] if told else []),
        f"digest {row['digest']}",
    ]
