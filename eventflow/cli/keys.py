"""Commands about the keys of an encrypted store: init, list, rotate, shred."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

from eventflow.cipher import Keyring, Kms, master_from_file, new_master, ring_from_settings
from eventflow.cipher.keyring import Wrapped
from eventflow.cli.shell import (
    CONFLICT,
    OK,
    ActorArg,
    FormatArg,
    StoreArg,
    WhyArg,
    YesArg,
    argument,
    confirm,
    counted,
    open_store,
    print_json,
    progress,
    show,
    store_path,
    sub_app,
    time_text,
    visible,
)
from eventflow.clock import SystemClock
from eventflow.log import LockedLog, open_log
from eventflow.shredding import finish, locked_log, of_deleted_runs, rotate, shred, to_shred
from eventflow.shredding import readmit as let_in

app = sub_app("keys", "Encrypt what a store holds; list, rotate and destroy its keys.")
SHOWN = 10  # runs named in a question; the rest is counted


@app.command
def init(file: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Have the new runs of a store be encrypted, with the master key in FILE, which is made if it is not there.

    Parameters
    ----------
    file
        The file of the master key; keep a copy of it elsewhere: what is encrypted can't be read without.
    """
    path = Path(file)
    made = not path.exists()
    master = new_master(path) if made else master_from_file(path)
    log = open_log(store_path(store), keys=Keyring(master))
    log.close()
    if output != "table":
        document = {"schema": "eventflow.encryption/1", "master": master.id, "file": file, "made": made}
        print_json(document, lines=output == "jsonl")
        return OK
    print(visible(f"new runs of {store_path(store)} are encrypted; runs that began before stay as they are"))
    print(visible(f"{'made' if made else 'used'} master key {master.id} in {file}; set EVENTFLOW_KEY_FILE={file}"))
    return OK


@app.command(name="list")
def list_(*, store: StoreArg = None, output: FormatArg = "table") -> int:
    """List whose keys there are, since when, wrapped with which master key, and who was shredded; needs no key."""
    log = open_store(store)
    try:
        seen = locked_log(log)
        unused = {one.key_id for one in of_deleted_runs(seen)}
        found = [_row(one, "run deleted" if one.key.key_id in unused else "in use") for one in seen.keys.listed()]
        seen.look_for_shredded()
        found += [_gone_row(name, key_id) for name, key_id in seen.gone.items()]
    finally:
        log.close()
    found.sort(key=lambda row: (row["kind"] == "store", row["kind"], row["name"]))
    show(found, output, "eventflow.keys/1", ("kind", "name", "key", "made", "master", "state"))
    return OK


def _gone_row(subject: str, key_id: bytes) -> dict[str, Any]:
    return {
        "kind": "subject", "name": subject, "key": key_id.hex(), "made": None, "master": None, "state": "shredded",
    }  # fmt: skip


def _row(one: Wrapped, state: str) -> dict[str, Any]:
    key = one.key
    return {
        "kind": key.kind, "name": key.name, "key": key.key_id.hex(), "made": time_text(key.made), "master": one.master,
        "state": state,
    }  # fmt: skip


@app.command(name="rotate")
def rotate_(
    file: str, /, *, why: WhyArg = "", actor: ActorArg = "", store: StoreArg = None, output: FormatArg = "table"
) -> int:
    """Wrap all keys with another master key, which is made if FILE is not there; can be stopped and repeated.

    Parameters
    ----------
    file
        The file of the new master key. The old one is taken from the settings, as always.
    """
    path = Path(file)
    with closing(open_log(store_path(store), readonly=True, create=False, keys=_ring(path))) as seen:
        locked_log(seen)  # before a key is made, and before this store, were it not encrypted, would be from here on
    fresh = master_from_file(path) if path.exists() else new_master(path)
    log = locked_log(open_log(store_path(store), create=False, keys=_with(fresh)))
    say, done = progress()
    count = 0
    try:
        for count in rotate(log, SystemClock(), fresh, why=why, actor=actor):
            say(f"wrapped {count} keys")
    finally:
        done()
        log.close()
    if output != "table":
        print_json({"schema": "eventflow.rotation/1", "master": fresh.id, "keys": count}, lines=output == "jsonl")
    else:
        print(visible(f"{counted(count, 'key')} wrapped with master key {fresh.id} now; set EVENTFLOW_KEY_FILE={file}"))
    return OK


def _ring(path: Path) -> Keyring | None:
    """The ring to begin with: the new master key is on it if a rotation was cut off half-way."""
    return _with(master_from_file(path)) if path.exists() else None


def _with(fresh: Kms) -> Keyring:
    """The ring of the settings, with the new master key on it."""
    old = ring_from_settings()
    return Keyring(fresh) if old is None else Keyring(old.master, fresh, *old.older)


@app.command(name="shred")
def shred_(
    name: str, /, *, subject: Annotated[bool, argument(negative=())] = False,
    run: Annotated[bool, argument(negative=())] = False, yes: YesArg = False, why: WhyArg = "", actor: ActorArg = "",
    store: StoreArg = None, output: FormatArg = "table",
) -> int:  # fmt: skip
    """Destroy the key of a subject, or of a run and its forks: nobody can read their values again. Asks first.

    Parameters
    ----------
    name
        The subject, or the id of a run that has a key of its own.
    subject
        It is a subject, where a run has that name too.
    run
        It is a run, where a subject has that name too.
    """
    log = locked_log(open_store(store, write=True))
    clock = SystemClock()
    try:
        finished = finish(log, clock, why=why, actor=actor)
        if finished and not log.inner.readonly and not _is_there(log, name):
            return _told(name, tuple(finished), gone=True, output=output)
        what = to_shred(log, name, kind="subject" if subject else "run" if run else None)
        gone = confirm(_question(what.kind, what.name, what.runs), yes=yes)
        if gone:
            shred(log, clock, what, why=why, actor=actor)
    finally:
        log.close()
    return _told(name, what.runs, gone=gone, output=output)


@app.command
def prune(
    *, yes: YesArg = False, why: WhyArg = "", actor: ActorArg = "", store: StoreArg = None, output: FormatArg = "table"
) -> int:
    """Destroy the keys of runs that were deleted: backups that still hold them can't be read any more. Asks first."""
    log = locked_log(open_store(store, write=True))
    try:
        found = of_deleted_runs(log)
        names = tuple(one.name for one in found)
        gone = bool(found) and confirm(_question_all(names), yes=yes)
        for one in found if gone else ():
            shred(log, SystemClock(), one, why=why, actor=actor)
    finally:
        log.close()
    if output != "table":
        document = {"schema": "eventflow.keyprune/1", "runs": list(names), "pruned": gone}
        print_json(document, lines=output == "jsonl")
    elif not found:
        print("no deleted run has a key here")
    else:
        print(f"{counted(len(found), 'key')} destroyed" if gone else "nothing was destroyed")
    return OK


def _question_all(names: tuple[str, ...]) -> str:
    return (
        f"Destroy the keys of {counted(len(names), 'deleted run')}? Backups that still hold them can't be read any more then: "
        f"{_shown(names)}."
    )


@app.command
def readmit(
    subject: str, /, *, why: WhyArg = "", actor: ActorArg = "", store: StoreArg = None, output: FormatArg = "table"
) -> int:
    """Let runs of a subject that was shredded be started again, under a new key. What is gone stays gone.

    Parameters
    ----------
    subject
        The subject.
    """
    log = locked_log(open_store(store, write=True))
    try:
        let_in(log, SystemClock(), subject, why=why, actor=actor)
    finally:
        log.close()
    if output != "table":
        document = {"schema": "eventflow.readmission/1", "subject": subject, "readmitted": True}
        print_json(document, lines=output == "jsonl")
    else:
        print(visible(f"runs of {subject} may be started again; they get a new key, what was shredded stays so"))
    return OK


def _is_there(log: LockedLog, name: str) -> bool:
    return any(one.key.name == name for one in log.keys.listed())


def _question(kind: str, name: str, runs: tuple[str, ...]) -> str:
    taken = (
        f"The values of {counted(len(runs), 'run')} are gone for good then: {_shown(runs)}."
        if runs
        else "No run here is under it; a backup's may be."
    )
    return f"Destroy the key of {kind} {name}? {taken}"


def _shown(runs: tuple[str, ...]) -> str:
    return ", ".join(runs[:SHOWN]) + (f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else "")


def _told(name: str, runs: tuple[str, ...], *, gone: bool, output: str) -> int:
    if output != "table":
        print_json(
            {"schema": "eventflow.shredding/1", "name": name, "shredded": gone, "runs": list(runs)},
            lines=output == "jsonl",
        )
    elif gone:
        print(
            visible(f"the key of {name} is destroyed; the values of {counted(len(runs), 'run')} can't be read any more")
        )
    else:
        print(visible(f"the key of {name} stays"))
    return OK if gone else CONFLICT
