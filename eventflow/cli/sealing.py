"""Commands that sign what a store holds: keygen, seal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from eventflow.cipher.signing import new_key, read_signing_key, write_key
from eventflow.cli.shell import (
    OK,
    FormatArg,
    StoreArg,
    argument,
    open_store,
    print_exact,
    print_json,
    store_path,
    visible,
)
from eventflow.clock import id_text
from eventflow.log import ADDRESSES
from eventflow.proof.note import parse_head
from eventflow.sealing import keep, kept_seals, origin, seal

NameArg = Annotated[str | None, argument(name="--name", help="The key's name. [default: that of the store's seals]")]
KeyArg = Annotated[str, argument(name="--key", help="The file of the key that signs.")]


def keygen(file: str, /, *, name: NameArg = None, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Make a key that signs seals, and print its other half.

    Parameters
    ----------
    file
        Where the key is written; keep it where who writes to the store can't read it.
    """
    if name is None:
        opened = open_store(store)
        try:
            name = origin(opened.store_id)
        finally:
            opened.close()
    key = new_key(name)
    write_key(Path(file), key)
    if output == "table":
        print(visible(str(key.public)))
    else:
        document = {"schema": "eventflow.key/1", "name": name, "id": key.public.key_id.hex(), "public": str(key.public)}
        print_json({**document, "path": file}, lines=output == "jsonl")
    return OK


def seal_(*, key: KeyArg, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Sign what the store holds now, to be kept elsewhere: exit code 4 if it is not what was sealed before."""
    signing = read_signing_key(Path(key))
    named = store_path(store)
    place = None if named.startswith(ADDRESSES) else Path(named)  # beside a database there is no place for a file
    opened = open_store(store)
    try:
        note = seal(opened, signing, [] if place is None else kept_seals(place))
        path = None if place is None else keep(place, note)
        store_id = id_text(opened.store_id)
    finally:
        opened.close()
    if output == "table":
        print_exact(str(note))
    else:
        head = parse_head(note.text)
        document = {"schema": "eventflow.seal/1", "store": store_id, "size": head.size, "root": head.root.hex()}
        print_json(
            {**document, "note": str(note), "path": None if path is None else str(path)}, lines=output == "jsonl"
        )
    return OK
