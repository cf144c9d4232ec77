"""Key files: made once, whole, private; and what is said of those that are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware.network import keys
from hardware.network.keys import ClientKeys, ServerKeys
from hardware.types import HardwareError

zmq = pytest.importorskip("zmq")


def test_both_sides_know_each_other_and_nobody_else_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "keys"
    assert keys.make(folder)
    server, client = ServerKeys.load(folder), ClientKeys.load(folder / keys.CLIENT)
    assert server.known == {zmq.curve_public(client.secret)}
    assert client.server == zmq.curve_public(server.secret)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        keys.SERVER: 0o600,
        keys.CLIENT: 0o600,
        keys.KNOWN: 0o600,
    }
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    assert keys.make(tmp_path / "keys")
    before = {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()}
    assert not keys.make(tmp_path / "keys")
    assert {path.name: path.read_bytes() for path in (tmp_path / "keys").iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("x")
    assert not keys.make(tmp_path / "mine")
    with pytest.raises(HardwareError, match=r"server\.key: No such file"):
        ServerKeys.load(tmp_path / "mine")


def test_cut_short_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keys.os, "fsync", full)
    with pytest.raises(HardwareError, match="no keys made: No space left on device"):
        keys.make(tmp_path / "keys")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "damaged"),
        ("[]", "a key in it is none"),
        ('{"secret": "short"}', "a key in it is none"),
        ('{"secret": "' + 40 * "~" + '"}', "a key in it is none"),
        ('{"secret": "' + 40 * "#" + '"}', "a key in it is none"),  # its numbers are beyond 32 bits
    ],
)
def test_a_file_that_is_no_key(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "client.key"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(HardwareError, match=message) as caught:
        ClientKeys.load(file)
    assert str(file) in str(caught.value)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys")
    (tmp_path / "keys" / keys.CLIENT).chmod(0o644)
    with pytest.raises(HardwareError, match="mode 644, so that others may read the key; expected 600"):
        ClientKeys.load(tmp_path / "keys" / keys.CLIENT)


def test_a_list_of_clients_that_others_may_write_is_refused(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys")
    (tmp_path / "keys" / keys.KNOWN).chmod(0o664)
    with pytest.raises(HardwareError, match=r"known_clients: mode 664, so that others may let themselves in; expected 600"):
        ServerKeys.load(tmp_path / "keys")


def test_a_secret_is_in_no_repr(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys")
    for loaded in (ServerKeys.load(tmp_path / "keys"), ClientKeys.load(tmp_path / "keys" / keys.CLIENT)):
        assert loaded.secret.decode() not in repr(loaded)


def test_without_a_known_client_nobody_is_served(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys")
    (tmp_path / "keys" / keys.KNOWN).write_text("\n")
    with pytest.raises(HardwareError, match="no client is known"):
        ServerKeys.load(tmp_path / "keys")
