"""Commands that take whole histories out of a store and into another: export, import, repair."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, cast

from eventflow.backup.staging import Staging
from eventflow.cipher import Keys, ring_from_settings
from eventflow.cipher.files import KeyFolder
from eventflow.cipher.keyring import adopt, taken
from eventflow.cli.backing import bar
from eventflow.cli.shell import (
    DIFFERENCE,
    OK,
    ActorArg,
    FormatArg,
    StoreArg,
    WhyArg,
    argument,
    counted,
    directory_path,
    open_store,
    print_json,
    print_table,
    progress,
    store_path,
    visible,
)
from eventflow.clock import SystemClock, id_text
from eventflow.errors import Conflict, SettingsError
from eventflow.exchange import ExportLog, key_of, read_export, write_sequence
from eventflow.forking import who
from eventflow.ingest import Ingested, ingest
from eventflow.log import LmdbLog, LockedLog, Log, Query
from eventflow.log.lmdb.files import make_directory
from eventflow.repair import repair
from eventflow.untrusted import export_untrusted

EXPORT, IMPORT, REPAIR = "eventflow.export/1", "eventflow.import/1", "eventflow.repair/1"
SUFFIX = ".cborseq"  # what the name of an export ends with; replay knows it by that
IntoArg = Annotated[str, argument(name="--into", help="The store that takes them in; made if it is not there.")]


def export_(file: str, /, *, store: StoreArg = None, output: FormatArg = "table") -> int:
    """Write a whole store to a new file that proves itself and is read where there is no store.

    Parameters
    ----------
    file
        The new file; its name ends in .cborseq.
    """
    if not file.endswith(SUFFIX):
        raise SettingsError(f"{file!r} is no name of an export; end it in {SUFFIX}, by which replay knows one")
    path = Path(file)
    with closing(open_store(store)) as log:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            raise SettingsError(f"{path} is there already; give another name") from None
        try:
            os.fchmod(fd, 0o600)  # whatever the umask is
            with os.fdopen(fd, "wb") as opened:
                events = write_sequence(log, opened, None)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        store_id = log.store_id
        sealed = any(key_of(log, one.head) for one in log.runs(Query()))
    if output != "table":
        document = {"schema": EXPORT, "file": file, "format": "cborseq", "store": id_text(store_id), "events": events}
        print_json(document, lines=output == "jsonl")
    else:
        print(visible(f"{counted(events, 'event')} written to {file}"))
        if sealed:
            print("what is encrypted stays so in it, and no key is")
    return OK


def import_(
    source: str, /, *, into: IntoArg, actor: ActorArg = "", why: WhyArg = "", output: FormatArg = "table"
) -> int:
    """Take the runs of an export, or of a store from anybody, into a store; each is verified, and its bytes stay as they are.

    Runs that are not over stand paused in it, since they may be driven elsewhere.

    Parameters
    ----------
    source
        The file of an export, or the directory of a store, which is only read, by a process of its own.
    """
    place, goal = directory_path(source), directory_path(into)
    say, done = progress()
    show = bar("taking in", say)
    try:
        with _source(place, say) as log:
            if os.path.lexists(goal):
                with closing(LmdbLog(goal, create=False)) as target:
                    closed = _bring_keys(log, place, goal)
                    made = ingest(_with_keys(log, goal), target, actor=actor or who(), why=why, progress=show)
            else:
                with Staging(goal) as staging:
                    make_directory(staging.path / "data.1")
                    with closing(LmdbLog(staging.path)) as target:
                        closed = _bring_keys(log, place, staging.path)
                        keyed = _with_keys(log, staging.path)
                        made = ingest(keyed, target, actor=actor or who(), why=why, progress=show)
                    (staging.path / "data.1" / "lock.mdb").unlink(missing_ok=True)
                    staging.publish()
    finally:
        done()
    return _tell_import(made, into, output, closed=closed)


def _bring_keys(log: ExportLog, place: Path, goal: Path) -> int:
    """Copy the keys of a store's encrypted runs, as they are wrapped; of how many runs there was none. Raises Conflict."""
    of = {one.head.run_id: key_id for one in log.runs(Query()) if (key_id := key_of(log, one.head))}
    target = KeyFolder(goal / "keys")
    for other in taken(target, set(of.values())):
        raise Conflict(
            f"{other.key.kind} {other.key.name} has a key of its own in {goal}, and values under two keys can't be told apart "
            f"there; take the store into a new one"
        )
    held = adopt(KeyFolder(place / "keys"), target, sorted(set(of.values()))) if place.is_dir() else set[bytes]()
    return sum(key_id not in held for key_id in of.values())


def _with_keys(log: ExportLog, goal: Path) -> Log:
    """What is taken in, opened with the keys that lie in the target and the master key of the settings, if there is one."""
    bare = cast("Log", log)
    ring = ring_from_settings()
    if ring is None:
        return bare
    keys = Keys(KeyFolder(goal / "keys"), log.store_id, ring, SystemClock().now, came_from=lambda _: True)
    return cast("Log", LockedLog(bare, keys, owns=False))


@contextmanager
def _source(path: Path, say: Callable[[str], None]) -> Iterator[ExportLog]:
    """A block with the log to be read: an export's, or that of a store, written as an export by another process."""
    if not path.is_dir():
        yield read_export(path, check=False)  # each run is verified before it is taken in
        return
    with tempfile.TemporaryDirectory(prefix="eventflow-") as place:
        file = Path(place) / f"all{SUFFIX}"
        export_untrusted(path, file, progress=lambda runs, events: say(f"verifying: {runs} runs, {events} events"))
        yield read_export(file, check=False)


def _tell_import(made: Ingested, into: str, output: str, *, closed: int) -> int:
    if output != "table":
        document = {"schema": IMPORT, "store": into, "runs": list(made.runs), "present": list(made.present)}
        unread = {"hidden": made.hidden, "unopened": made.unopened}
        print_json({**document, "events": made.events, "without_key": closed, **unread}, lines=output == "jsonl")
        return OK
    print(visible(f"{counted(len(made.runs), 'run')}, {counted(made.events, 'event')} taken into {into}"))
    if made.present:
        print(f"{counted(len(made.present), 'run')} {'was' if len(made.present) == 1 else 'were'} there already")
    if closed:
        print(
            f"{counted(closed, 'run')} {'is' if closed == 1 else 'are'} encrypted and came without a key: "
            f"values can be read once the files of keys/ are here too"
        )
    if made.hidden:
        begun = f", nor was what {counted(made.unopened, 'compacted run')} began with" if made.unopened else ""
        print(
            visible(
                f"{counted(made.hidden, 'event')} came sealed: without their key the values were not compared{begun}; with it "
                f"`eventflow store verify --store {shlex.quote(into)}` does that"
            )
        )
    return OK


def repair_(source: str, dest: str, /, *, actor: ActorArg = "", why: WhyArg = "", output: FormatArg = "table") -> int:
    """Save what proves itself of a damaged store in a new one, and list the rest; exit code 4 if anything was lost.

    Parameters
    ----------
    source
        The damaged store, which is only read.
    dest
        The directory of the new store.
    """
    place, goal = directory_path(store_path(source)), directory_path(dest)
    say, done = progress()
    try:
        made = repair(place, goal, actor=actor, why=why, progress=bar("saving", say))
    finally:
        done()
    lost = [one.plain() for one in made.lost]
    if output != "table":
        document = {"schema": REPAIR, "path": str(made.path), "runs": made.runs, "events": made.events, "lost": lost}
        print_json(document, lines=output == "jsonl")
    else:
        print(visible(f"{counted(made.runs, 'run')}, {counted(made.events, 'event')} saved in {made.path}"))
        if lost:
            print_table(lost, ("run", "version", "problem"), "not saved:")
    return DIFFERENCE if lost else OK
