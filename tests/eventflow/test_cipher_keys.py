"""Master keys and data keys: where they come from, how they are kept, which are refused."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import resource
import stat
import sys
import types

import pytest

from eventflow import Keyring
from eventflow.cipher import Keys, MasterKey, master_from_file, new_master, ring_from_settings
from eventflow.cipher.files import KeyFolder, KeyShelf
from eventflow.cipher.keyring import read_wrapped, tag_of, wrap
from eventflow.cipher.locks import DataKey
from eventflow.errors import Corrupt, NoKey, SettingsError, StoreUnusable, VersionConflict, WrongKey
from eventflow.event import Transitioned
from eventflow.log import Appended, MemoryLog, open_log
from eventflow.testing.author import Author

STORE = b"s" * 16


@pytest.fixture(params=["folder", "shelf"])
def shelf(request, tmp_path):
    """Where wrapped keys lie: on disk, and in memory."""
    return KeyFolder(tmp_path / "keys") if request.param == "folder" else KeyShelf()


def keys_of(shelf, ring, store=STORE):
    """The keys of a store."""
    return Keys(shelf, store, ring, lambda: 5)


# --- master keys ---------------------------------------------------------------------------------------------------


def test_a_new_master_key_is_private_and_never_written_over(tmp_path):
    """Mode 0600; a second one under its name is refused."""
    master = new_master(tmp_path / "m")
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o600
    assert master_from_file(tmp_path / "m").id == master.id
    with pytest.raises(SettingsError, match="never written over"):
        new_master(tmp_path / "m")


@contextlib.contextmanager
def no_room():
    """A block in which no file of this process may grow beyond a few bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_key_that_finds_no_room_leaves_no_half_of_a_file(tmp_path):
    """Neither a master key, whose name would be taken the next time, nor a wrapped one."""
    folder = KeyFolder(tmp_path / "keys")
    with no_room(), pytest.raises(SettingsError, match=f"can't be written .{os.strerror(errno.EFBIG)}"):
        new_master(tmp_path / "m")
    with no_room(), pytest.raises(StoreUnusable, match="nothing was encrypted"):
        keys_of(folder, Keyring(MasterKey(b"m" * 32))).begin()
    assert (list(tmp_path.iterdir()), list(folder.path.iterdir())) == ([folder.path], [])
    assert new_master(tmp_path / "m").id == master_from_file(tmp_path / "m").id


def test_a_key_file_that_others_may_read_is_refused(tmp_path):
    """So is a link to one, a folder, and a file that holds something else."""
    new_master(tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    (tmp_path / "junk").write_text("not a key")
    (tmp_path / "junk").chmod(0o600)
    for name, said in (
        ("link", "can't be read"),
        ("junk", "no master key"),
        ("gone", "can't be read"),
        ("", "no file"),
    ):
        with pytest.raises(SettingsError, match=said):
            master_from_file(tmp_path / name)
    (tmp_path / "m").chmod(0o640)
    with pytest.raises(SettingsError, match="chmod 600"):
        master_from_file(tmp_path / "m")


def test_a_key_file_of_another_user_is_refused(tmp_path):
    """Whoever can write it chooses what we encrypt with."""
    if os.geteuid():
        pytest.skip("only root can give a file away")
    new_master(tmp_path / "m")
    os.chown(tmp_path / "m", 12_345, 12_345)
    with pytest.raises(SettingsError, match="another user"):
        master_from_file(tmp_path / "m")


def test_a_master_key_comes_from_the_environment_too(monkeypatch, tmp_path):
    """In base64; what is there and is no key is said without repeating it."""
    monkeypatch.setenv("EVENTFLOW_KEY", base64.b64encode(b"m" * 32).decode())
    assert Keyring.from_environment().master.id == MasterKey(b"m" * 32).id
    assert ring_from_settings().master.id == MasterKey(b"m" * 32).id
    for wrong in ("c2hvcnQ=", "***not-a-key***"):
        monkeypatch.setenv("EVENTFLOW_KEY", wrong)
        with pytest.raises(SettingsError) as told:
            Keyring.from_environment()
        assert wrong not in str(told.value)
    monkeypatch.delenv("EVENTFLOW_KEY")
    with pytest.raises(SettingsError, match="is not set"):
        Keyring.from_environment()
    assert ring_from_settings() is None
    new_master(tmp_path / "a"), new_master(tmp_path / "b")
    monkeypatch.setenv("EVENTFLOW_KEY_FILE", f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}")
    ring = ring_from_settings()
    assert (ring.master.id, ring.older[0].id) == tuple(master_from_file(tmp_path / name).id for name in "ab")


def test_a_master_key_comes_from_the_system_s_keyring_too(monkeypatch):
    """Through the package keyring, where that is installed."""
    held = {("eventflow", "mine"): base64.b64encode(b"m" * 32).decode()}
    fake = types.SimpleNamespace(get_password=lambda service, name: held.get((service, name)))
    monkeypatch.setitem(sys.modules, "keyring", fake)
    assert Keyring.from_system("mine").master.id == MasterKey(b"m" * 32).id
    with pytest.raises(SettingsError, match="has no key 'other'"):
        Keyring.from_system("other")
    monkeypatch.setattr(fake, "get_password", {}.__getitem__)  # raises something of its own, as its backends do
    with pytest.raises(SettingsError, match="system's keyring can't be read"):
        Keyring.from_system("mine")
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(SettingsError, match="pip install keyring"):
        Keyring.from_system("mine")


def test_a_key_never_shows_in_what_is_printed_of_it():
    """Neither a ring, nor a master key, nor a data key."""
    secret = b"\x01\xfe" * 16
    master = MasterKey(secret)
    shown = f"{master!r} {Keyring(master)!r} {DataKey(b'i' * 10, STORE, 'run', 'r', b'', 0, secret)!r}"
    assert secret.hex() not in shown
    assert repr(secret)[2:-1] not in shown
    assert base64.b64encode(secret).decode() not in shown


class Service:
    """A key management service: two methods and a name."""

    id = "kms-1"
    down = False

    def wrap(self, secret, about):
        if self.down:
            raise TimeoutError("no route")
        return b"wrapped:" + MasterKey(b"h" * 32).wrap(secret, about)

    def unwrap(self, wrapped, about):
        if self.down:
            raise TimeoutError("no route")
        return MasterKey(b"h" * 32).unwrap(wrapped.removeprefix(b"wrapped:"), about)


def test_a_key_management_service_stands_in_for_a_master_key(shelf):
    """Whatever has an id and wraps and unwraps."""
    keys = keys_of(shelf, Keyring(Service()))
    made, fresh = keys.made_for("subject", "eve")
    assert fresh
    assert keys_of(shelf, Keyring(Service())).get(made.key_id, "x").secret == made.secret


def test_a_service_that_does_not_answer_refuses_the_run_that_needs_it_and_no_other():
    """Runs whose keys are known are written in the same batch; what went wrong is said in a sentence."""
    service = Service()
    log = open_log(MemoryLog(), keys=Keyring(service))
    author = Author(log)
    held = author.start("held")
    service.down = True
    moved, refused = log.write([author.then(held, Transitioned("a", "a")), author.first("new")])
    assert isinstance(moved, Appended)
    assert isinstance(refused, StoreUnusable)
    assert not any(one.key.name == "new" for one in log.keys.listed())
    assert "master key kms-1 does not answer (TimeoutError: no route)" in str(refused)
    with pytest.raises(StoreUnusable, match="does not answer"):
        open_log(log.inner, keys=log.keys.ring)


def test_a_run_that_did_not_come_to_be_leaves_no_key():
    """Its start was refused, so its key goes; that of the run which is there stays."""
    log = open_log(MemoryLog(), keys=Keyring(MasterKey(b"m" * 32)))
    author = Author(log)
    author.start("r")
    assert isinstance(log.write([author.first("r", incarnation=1)])[0], VersionConflict)
    assert [one.key.name for one in log.keys.listed()] == ["r", ""]


# --- data keys -----------------------------------------------------------------------------------------------------


def test_a_subject_has_one_key_and_each_run_its_own(shelf):
    """Asked for twice it is the same; another run of the same id has another."""
    keys = keys_of(shelf, Keyring(MasterKey(b"m" * 32)))
    eve, again = keys.made_for("subject", "eve")[0], keys_of(shelf, keys.ring).made_for("subject", "eve")[0]
    runs = [keys.made_for("run", "r", bytes([number]) * 16)[0] for number in (1, 2)]
    assert eve == again
    assert len({one.secret for one in (eve, *runs)}) == 3
    assert len({one.key_id for one in (eve, *runs)}) == 3


def test_a_wrapped_key_opens_with_its_master_key_alone(shelf):
    """Another one is named in the error; without any there is no key."""
    made = keys_of(shelf, Keyring(MasterKey(b"m" * 32))).made_for("subject", "eve")[0]
    with pytest.raises(WrongKey, match=MasterKey(b"m" * 32).id):
        keys_of(shelf, Keyring(MasterKey(b"n" * 32))).get(made.key_id, "run r")
    with pytest.raises(
        NoKey, match=r"no master key was given; name the file of master key .* with EVENTFLOW_KEY_FILE, with `key_file`"
    ):
        keys_of(shelf, None).get(made.key_id, "run r")
    with pytest.raises(NoKey, match="run q is encrypted"):
        keys_of(shelf, Keyring(MasterKey(b"m" * 32))).get(b"?" * 10, "run q")


def test_the_file_of_a_key_can_be_neither_changed_nor_moved():
    """Whose it is, when, which store: the wrapping is bound to all of it."""
    master = MasterKey(b"m" * 32)
    key = DataKey(tag_of("subject", "eve") + b"abc", STORE, "subject", "eve", b"", 5, b"k" * 32)
    data = wrap(key, master).packed()
    shelf = KeyShelf()
    for changed in (data.replace(b"eve", b"bob"), data.replace(STORE, b"t" * 16), data[:-1] + bytes([data[-1] ^ 1])):
        assert changed != data
        shelf.replace(tag_of("subject", "eve").hex(), changed)
        with pytest.raises(Corrupt):
            keys_of(shelf, Keyring(master)).get(key.key_id, "x")
    for junk in (b"", b"\xa0", data[:-3], data + b"\0"):
        with pytest.raises(Corrupt):
            read_wrapped(junk, "keys/x.key")


def test_no_file_of_a_key_is_a_link(tmp_path):
    """A link in `keys/` is refused, not followed."""
    folder = KeyFolder(tmp_path / "keys")
    keys_of(folder, Keyring(MasterKey(b"m" * 32))).begin()
    (tmp_path / "elsewhere").write_bytes(b"x")
    (tmp_path / "keys" / "00.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="never followed"):
        folder.read("00")


def test_a_rotation_changes_the_wrapping_and_nothing_else(shelf):
    """Each key opens with the new master key, none with the old one, and all are what they were."""
    old, new = MasterKey(b"m" * 32), MasterKey(b"n" * 32)
    keys = keys_of(shelf, Keyring(old))
    keys.begin()
    made = {name: keys.made_for("subject", name)[0] for name in ("eve", "bob")}
    assert list(keys.rotate(new)) == [1, 2, 3]
    after = keys_of(shelf, Keyring(new))
    after.check()
    assert {one.master for one in after.listed()} == {new.id}
    assert all(after.get(key.key_id, name).secret == key.secret for name, key in made.items())
    with pytest.raises(WrongKey):
        keys_of(shelf, Keyring(old)).check()


def test_a_rotation_that_was_cut_off_can_be_repeated(shelf):
    """At every point both rings together open all keys, and the store's own goes last."""
    old, new = MasterKey(b"m" * 32), MasterKey(b"n" * 32)
    keys = keys_of(shelf, Keyring(old))
    keys.begin()
    made = [keys.made_for("subject", name)[0] for name in ("a", "b", "c")]
    for stop in range(1, 5):
        both = keys_of(shelf, Keyring(old, new))
        for _, _count in zip(range(stop), both.rotate(new), strict=False):
            pass
        keys_of(shelf, Keyring(old, new)).check()
        assert [keys_of(shelf, Keyring(new, old)).get(one.key_id, "").secret for one in made] == [
            one.secret for one in made
        ]
        left = [one.key.kind for one in both.listed() if one.master == old.id]
        assert not left or left[-1] == "store"
    assert {one.master for one in keys_of(shelf, Keyring(new)).listed()} == {new.id}


def test_a_key_that_is_destroyed_elsewhere_is_not_used_on(tmp_path):
    """A process that holds it in memory looks whether its file is still there."""
    folder, ring = KeyFolder(tmp_path / "keys"), Keyring(MasterKey(b"m" * 32))
    here, there = keys_of(folder, ring), keys_of(KeyFolder(tmp_path / "keys"), ring)
    key = here.made_for("subject", "eve")[0]
    here.lock(key.key_id, b"r" * 16, "run r")
    there.destroy(key.key_id)
    here.refresh()
    with pytest.raises(NoKey):
        here.lock(key.key_id, b"r" * 16, "run r")
    fresh = there.made_for("subject", "eve")[0]
    assert fresh.key_id != key.key_id
    with pytest.raises(NoKey):
        here.get(key.key_id, "run r")


def test_the_file_of_a_destroyed_key_is_overwritten_before_it_goes(tmp_path):
    """What is left between destroying and forgetting holds nothing of it."""
    folder = KeyFolder(tmp_path / "keys")
    keys = keys_of(folder, Keyring(MasterKey(b"m" * 32)))
    key = keys.made_for("subject", "eve")[0]
    tag = key.key_id[:7].hex()
    before = (tmp_path / "keys" / f"{tag}.key").read_bytes()
    os.link(tmp_path / "keys" / f"{tag}.key", tmp_path / "seen")
    keys.destroy(key.key_id)
    left = (tmp_path / "seen").read_bytes()
    assert len(left) == len(before)
    assert not any(before[at : at + 8] in left for at in range(len(before) - 8))
    assert folder.half_destroyed() == [tag]
    keys.forget(key.key_id)
    assert list((tmp_path / "keys").iterdir()) == []
