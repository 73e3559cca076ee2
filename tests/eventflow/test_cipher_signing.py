"""Keys that sign: the public values of Go's implementation, files, and what is refused."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from eventflow.cipher.signing import check_signed, new_key, public_key, read_signing_key, write_key
from eventflow.errors import ProofFailed, SettingsError
from eventflow.proof.note import Note, Signature, parse_note

# The example of golang.org/x/mod/sumdb/note.
SECRET = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"  # noqa: S105 - a public example
PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
LINE = (
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


@pytest.fixture
def secret(tmp_path):
    """The file of the example's key."""
    path = tmp_path / "key"
    path.write_text(f"{SECRET}\n")
    path.chmod(0o600)
    return path


def test_keys_and_signatures_are_those_of_the_go_implementation(secret):
    """The same key gives the same id, the same text, and byte for byte the same signature."""
    key = read_signing_key(secret)
    assert (key.secret_text(), str(key.public)) == (SECRET, PUBLIC)
    assert str(key.signed(TEXT)) == f"{TEXT}\n{LINE}"
    check_signed(parse_note(f"{TEXT}\n{LINE}"), public_key(PUBLIC))


def test_a_changed_text_or_signature_does_not_hold(secret):
    """Nor one in the name of the key that is another's."""
    key, other = read_signing_key(secret), new_key("PeterNeumann")
    note, trusted = key.signed(TEXT), key.public
    with pytest.raises(ProofFailed, match="does not hold"):
        check_signed(Note(TEXT + "more\n", note.signatures), trusted)
    forged = Signature("PeterNeumann", trusted.key_id, other.signed(TEXT).signatures[0].data)
    with pytest.raises(ProofFailed, match="does not hold"):
        check_signed(Note(TEXT, (forged,)), trusted)
    with pytest.raises(ProofFailed, match="not signed by"):
        check_signed(other.signed(TEXT), trusted)
    with pytest.raises(ProofFailed, match="does not hold"):  # one that is bad spoils those that are good
        check_signed(Note(TEXT, (*note.signatures, forged)), trusted)


def test_signatures_of_unknown_keys_are_passed_over(secret):
    """As a witness adds them."""
    key = read_signing_key(secret)
    others = tuple(new_key(name).signed(TEXT).signatures[0] for name in ("PeterNeumann", "witness.example"))
    check_signed(Note(TEXT, (*others, *key.signed(TEXT).signatures)), key.public)


def test_a_fresh_key_is_kept_where_only_its_owner_reads_it(tmp_path):
    """And is not written over another."""
    key = new_key("example.com/store")
    write_key(tmp_path / "key", key)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert read_signing_key(tmp_path / "key") == key
    with pytest.raises(SettingsError, match="there already"):
        write_key(tmp_path / "key", new_key("other"))
    assert read_signing_key(tmp_path / "key") == key
    assert new_key("example.com/store") != key


def test_a_key_does_not_show_its_secret(secret):
    """Where it is printed."""
    assert "seed" not in repr(read_signing_key(secret))


def test_a_key_that_others_can_read_is_refused(secret):
    """Nothing is signed with it."""
    secret.chmod(0o640)
    with pytest.raises(SettingsError, match="can be read by others"):
        read_signing_key(secret)


def test_a_public_key_is_given_as_text_or_as_a_file(tmp_path):
    """The one that signs is not taken for it."""
    (tmp_path / "pub").write_text(f"{PUBLIC}\n")
    assert public_key(str(tmp_path / "pub")) == public_key(PUBLIC)
    with pytest.raises(SettingsError, match="holds the key that signs"):
        public_key(SECRET)


@pytest.mark.parametrize(
    "text",
    ["a", "a+b", "a+\0", "\0", "a+" * 2_000, "a" * 5_000, "+c74f20a3+AAAA", PUBLIC[:-4], PUBLIC.replace("c74f20a3", "c74f20a4"), PUBLIC.replace("+ARpc", "+AhpC"),
     PUBLIC.replace("Peter", "Peter "), PUBLIC.replace("TW", "T!")],
)  # fmt: skip
def test_what_is_no_public_key_is_refused(text):
    """In one sentence."""
    with pytest.raises(SettingsError):
        public_key(text)


@pytest.mark.parametrize("text", ["", PUBLIC, SECRET[:-2], SECRET.replace("c74f20a3", "c74f20a4"), "\udcff"])
def test_what_is_no_signing_key_is_refused(secret, text):
    """In one sentence."""
    secret.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SettingsError):
        read_signing_key(secret)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2003b", "a\nb", "a\x00"])
def test_a_name_that_no_key_can_have_is_refused(name):
    """It could not stand in a note."""
    with pytest.raises(SettingsError):
        new_key(name)


def test_the_library_is_loaded_when_something_is_signed_or_checked():
    """Naming keys and reading histories does not."""
    code = (
        "import sys; from eventflow.cipher.signing import new_key, public_key; import replay.cli; replay.cli.build()\n"
        f"public_key({PUBLIC!r}); assert 'cryptography' not in sys.modules; new_key('a'); assert 'cryptography' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
