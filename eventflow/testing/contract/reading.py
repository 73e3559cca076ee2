"""What every log must give back: events, lists, values that are kept once, and what it knows of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eventflow.checkpoint import Checkpoint
from eventflow.clock import NS
from eventflow.codec import pack_blob, pack_state, read_events
from eventflow.errors import (
    Corrupt,
    StoreClosed,
)
from eventflow.event import EffectStarted, Event
from eventflow.log import (
    STORE_RUN,
    Post,
    Query,
    Upkeep,
)
from eventflow.plain import freeze
from eventflow.proof import digest
from eventflow.testing.author import Author, written
from eventflow.testing.contract.maker import LONG, MOVE, OWNER, LogMaker, moved, raises


class ReadContract(LogMaker):
    """Tests of reading."""

    def test_a_read_gives_the_versions_in_its_range(self, tmp_path: Path) -> None:
        """Both ends are included; what is not there is left out; other runs are not touched."""
        with self.author(tmp_path) as author:
            log = author.log
            head, other = author.start("r"), author.start("s")
            for _ in range(4):
                head, other = author.add(head, MOVE), author.add(other, MOVE)
            found = {
                (first, last): [one.version for one in read_events(log.read(head.run_key, first, last), log.blobs)]
                for first, last in ((1, 5), (2, 3), (5, 9), (6, 9), (3, 2), (0, 1))
            }
            assert found == {(1, 5): [1, 2, 3, 4, 5], (2, 3): [2, 3], (5, 9): [5], (6, 9): [], (3, 2): [], (0, 1): [1]}
            assert {one.run_key for one in read_events(log.read(head.run_key, 1, 5), log.blobs)} == {head.run_key}
            assert log.read(b"?" * 16, 1, 9) == []

    def test_the_feed_gives_every_event_in_order_of_position(self, tmp_path: Path) -> None:
        """It goes on after a position and stops at the limit."""
        with self.author(tmp_path) as author:
            log, head, other = author.log, author.start("r"), author.start("s")
            author.add(head, MOVE)
            author.add(other, MOVE)
            everything = log.feed(0, 100)
            assert [one.position for one in everything] == [1, 2, 3, 4, 5]
            keys = [one.run_key for one in read_events(everything, log.blobs)]
            assert keys == [STORE_RUN, head.run_key, other.run_key, head.run_key, other.run_key]
            assert log.feed(2, 2) == everything[2:4]
            assert log.feed(5, 10) == log.feed(99, 10) == []

    def test_runs_are_found_by_what_is_asked(self, tmp_path: Path) -> None:
        """By status, workflow, tag, time and limit, alone and together, newest first."""
        with self.author(tmp_path) as author:
            log = author.log
            a = author.start("a", workflow="w1", tags=("red",))
            b = author.start("b", workflow="w2", tags=("red", "blue"))
            middle = author.clock.now()
            author.start("c", workflow="w1")
            author.add(a, MOVE, status="failed")
            author.add(b, MOVE, status="waiting", waiting_for="timer")
            asked = {
                Query(): "cba", Query(limit=2): "cb", Query(limit=0): "", Query(workflow="w1"): "ca",
                Query(tag="red"): "ba", Query(tag="blue"): "b", Query(tag="green"): "", Query(status="running"): "c",
                Query(status="waiting"): "b", Query(status="pending"): "", Query(since=middle): "cb",
                Query(since=middle + NS): "c", Query(workflow="w1", status="failed"): "a",
                Query(workflow="w2", tag="red", limit=1): "b", Query(tag="red", limit=1): "b",
            }  # fmt: skip
            found = {query: "".join(one.head.run_id for one in log.runs(query)) for query in asked}
            assert found == asked
            [listed] = log.runs(Query(tag="blue"))
            assert listed.entry == log.entry(b.run_key)
            assert (listed.entry.workflow, listed.entry.tags, listed.entry.started) == ("w2", ("red", "blue"), middle)
            assert (listed.head, listed.head.waiting_for) == (log.head("b"), "timer")

    def test_ids_are_found_by_prefix(self, tmp_path: Path) -> None:
        """In order, up to the limit; the store's own stream is not among them."""
        with self.author(tmp_path) as author:
            log = author.log
            for name in ("b-2", "a", "b-10", "b", "c"):
                author.start(name)
            assert log.ids("", 9) == ["a", "b", "b-10", "b-2", "c"]
            assert log.ids("b", 9) == ["b", "b-10", "b-2"]
            assert log.ids("b-", 1) == ["b-10"]
            assert log.ids("b", 0) == log.ids("bb", 9) == log.ids("~", 9) == log.ids("x" * 600, 9) == []

    def test_an_id_that_no_run_can_have_is_not_found(self, tmp_path: Path) -> None:
        """Empty, endless and reserved ids are looked up like any other."""
        with self.author(tmp_path) as author:
            for name in ("", "x" * 600, "~store", "nobody", "ä"):
                assert author.log.head(name) is None
            assert author.log.head_of(b"?" * 16) is None
            assert author.log.entry(b"?" * 16) is None
            assert author.log.next_incarnation("nobody") == 1

    def test_a_long_value_is_kept_once(self, tmp_path: Path) -> None:
        """The same text in two runs takes one row, and both read it back."""
        with self.author(tmp_path) as author:
            log = author.log
            heads = [author.add(author.start(name), moved("text", LONG)) for name in ("r", "s")]
            assert log.usage().rows["blobs"] == 1
            assert log.blobs([digest(LONG.encode())]) == {digest(LONG.encode()): LONG.encode()}
            assert [author.state(head).data["text"] for head in heads] == [LONG, LONG]

    def test_a_missing_blob_is_corruption(self, tmp_path: Path) -> None:
        """Asking for bytes that are not there raises Corrupt, also next to some that are."""
        with self.author(tmp_path) as author:
            author.add(author.start("r"), moved("text", LONG))
            assert author.log.blobs([]) == {}
            with raises(Corrupt):
                author.log.blobs([digest(LONG.encode()), bytes(32)])

    def test_a_blob_that_is_not_what_it_is_named_by_is_corruption(self, tmp_path: Path) -> None:
        """Bytes are checked against their digest whenever they are read."""
        with self.author(tmp_path) as author:
            head = author.start("r")
            packed = pack_state(author.state(author.add(head, moved("text", LONG))))
            other = Author(self.make_log(tmp_path / "other"))
            forged = [replace(blob, stored=pack_blob(b"something else" * 99)) for blob in packed.blobs]
            key = other.start("r").run_key
            written(other.log, Upkeep(key, replace(packed, blobs=tuple(forged))))
            with raises(Corrupt):
                other.log.blobs([packed.blobs[0].digest])
            other.log.close()

    def test_the_change_mark_moves_with_every_write(self, tmp_path: Path) -> None:
        """Events, upkeep and messages move it; reading does not."""
        with self.author(tmp_path) as author:
            log, head = author.log, author.start("r")
            seen = {log.change_mark()}
            for write in (Post(head.run_key, b"x"), Upkeep(head.run_key, marks=(Checkpoint(1, ("auto",), 1),))):
                written(log, write)
                seen.add(log.change_mark())
            author.add(head, MOVE)
            seen.add(log.change_mark())
            assert len(seen) == 4
            log.runs(Query())
            log.feed(0, 9)
            assert log.change_mark() in seen

    def test_usage_counts_what_is_held(self, tmp_path: Path) -> None:
        """Rows and bytes by kind, under the same names in every log; what has indexes tells them apart."""
        with self.author(tmp_path) as author:
            head = author.add(author.start("r"), moved("text", LONG))
            author.add(head, MOVE, vouch=author.snapshot(head), marks=(Checkpoint(2, ("auto",), 5),))
            written(author.log, Post(head.run_key, b"x"))
            usage = author.log.usage()
            assert {kind: count for kind, count in usage.rows.items() if kind != "index"} == {
                "events": 4, "runs": 1, "blobs": 1, "snapshots": 1, "checkpoints": 1, "messages": 1,
            }  # fmt: skip
            assert usage.bytes.keys() == usage.rows.keys()
            assert usage.bytes["events"] > 0
            assert usage.positions == 4

    def test_a_closed_log_says_so(self, tmp_path: Path) -> None:
        """Reads and writes raise StoreClosed; closing again is no error."""
        log = self.make_log(tmp_path)
        head = Author(log).start("r")
        log.close()
        log.close()
        for call in (
            lambda: log.write([]), lambda: log.head("r"), lambda: log.head_of(head.run_key), lambda: log.ids("", 1),
            lambda: log.runs(Query()), lambda: log.read(head.run_key, 1, 1), lambda: log.feed(0, 1), log.position,
            lambda: log.blobs([]), lambda: log.snapshots(head.run_key, 1), lambda: log.checkpoints(head.run_key),
            lambda: log.inbox(head.run_key), log.mail, log.change_mark, log.usage, lambda: log.new_owner(OWNER),
        ):  # fmt: skip
            with raises(StoreClosed):
                call()

    def test_an_event_is_written_as_it_was_packed(self, tmp_path: Path) -> None:
        """Everything a fact says comes back from the log."""
        with self.author(tmp_path) as author:
            event: Event = EffectStarted("pay", "1", "tool", True, freeze({"to": LONG}), bytes(32), "key")
            head = author.add(author.start("r"), event)
            assert read_events(author.log.read(head.run_key, 2, 2), author.log.blobs)[0].event == event
