"""Both sides of the socket, the service a plain one: who is let in, what is refused, what is heard when, what becomes of a lost link."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from hardware.network import keys, server, wire
from hardware.network.client import Client, NoAnswer
from hardware.network.keys import ClientKeys, ServerKeys
from hardware.network.server import Server
from hardware.network.wire import VERSION, pack, unpack
from hardware.types import HardwareError
from tests.hardware.network.serving import ANYWHERE, Echo, raw, served

zmq = pytest.importorskip("zmq")


def test_it_says_what_it_has_and_answers_its_one_client(client: Client, echo: Echo) -> None:
    assert client.hello() == {"colour": "red"}
    assert client.open() == {"colour": "red"}
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    answer = client.ask("any", 1, "two", array)
    assert answer[:2] == [1, "two"]
    np.testing.assert_array_equal(answer[2], array)
    client.close()
    assert echo.events == ["any", "urged: closed", "left: closed"]


def test_what_a_service_raises_is_one_line_there_and_here(client: Client, place: tuple[str, Path, list[str]]) -> None:
    client.open()
    with pytest.raises(HardwareError, match="ValueError: two lines"):
        client.ask("fail")
    assert client.ask("any") == []
    assert place[2][-1] == "refused: 'fail': ValueError: two lines"


def test_one_client_at_a_time(client: Client, place: tuple[str, Path, list[str]]) -> None:
    client.open()
    second = Client(place[0], place[1], "echo")
    assert second.hello() == {"colour": "red"}
    with pytest.raises(HardwareError, match="in use by another client; one at a time"):
        second.open()
    with pytest.raises(NoAnswer, match="started anew, or did not hear us"):
        second.ask("any")
    client.close()
    second.open()
    assert second.ask("any") == []
    second.close()


def test_whoever_closed_may_come_again(client: Client) -> None:
    for _ in range(2):
        client.open()
        assert client.ask("any") == []
        client.close()


@pytest.mark.parametrize("unknown", ["server", "client"])
def test_a_key_that_the_other_side_does_not_know(
    unknown: str, place: tuple[str, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second of waiting for an answer that must not come."""
    address, key_file, lines = place
    keys.make(tmp_path / "others")
    file = tmp_path / "others" / keys.CLIENT
    if unknown == "client":
        both = f'{{"secret": "{ClientKeys.load(file).secret.decode()}", "server": "{ClientKeys.load(key_file).server.decode()}"}}'
        file.write_text(both)
    stranger = Client(address, file, "echo")
    with pytest.raises(NoAnswer, match=f"`hello` got no answer in 1 s; somebody listens there, who hangs, or whose keys .* {file}"):
        stranger.hello(within_s=1.0)
    stranger.close()
    assert any("unknown key" in line for line in lines) == (unknown == "client")


def test_nobody_listens(tmp_path: Path) -> None:
    keys.make(tmp_path / "keys")
    lonely = Client("tcp://127.0.0.1:9", tmp_path / "keys" / keys.CLIENT, "echo")
    with pytest.raises(NoAnswer, match=r"tcp://127\.0\.0\.1:9: `hello` got no answer in 0\.2 s; nobody listens there: Connection refused"):
        lonely.hello(within_s=0.2)
    lonely.close()


def test_without_curve_nothing_is_said(place: tuple[str, Path, list[str]]) -> None:
    """A third of a second of waiting for an answer that must not come."""
    line = zmq.Context.instance().socket(zmq.DEALER)
    line.linger, line.sndtimeo = 0, 300
    line.connect(place[0])
    with suppress(zmq.Again):  # as soon as they have failed to shake hands nothing gets away
        line.send(pack([1, "hello", "", [VERSION, "echo"]]))
    assert line.poll(300) == 0
    line.close()


def test_whoever_listens_without_curve_is_not_waited_for(tmp_path: Path) -> None:
    """They fail to shake hands, after which ZeroMQ would hold what is sent for ever. A second of waiting."""
    keys.make(tmp_path / "keys")
    with zmq.Context() as context, context.socket(zmq.ROUTER) as plain:
        port = plain.bind_to_random_port("tcp://127.0.0.1")
        client = Client(f"tcp://127.0.0.1:{port}", tmp_path / "keys" / keys.CLIENT, "echo")
        client._requests._opened()
        time.sleep(0.5)
        with pytest.raises(NoAnswer, match="`hello` got no answer in 0.5 s; somebody listens there"):
            client.hello(within_s=0.5)
        client.close()


def test_where_nobody_answers_for_keys_nobody_is_let_in(tmp_path: Path, echo: Echo) -> None:
    """The authenticator's thread gone, the door is shut, not open. A second of waiting for an answer that must not come."""
    keys.make(tmp_path / "keys")
    with Server(echo, ANYWHERE, ServerKeys.load(tmp_path / "keys")) as alone:
        alone._auth.stop()
        client = Client(alone.address, tmp_path / "keys" / keys.CLIENT, "echo")
        with pytest.raises(NoAnswer):
            client.hello(within_s=1.0)
        client.close()


@pytest.mark.parametrize("address", ["tcp://nowhere", "udp://127.0.0.1:1", "tcp://:5555", "host:5555", "", "tcp://h:99999"])
def test_an_address_that_is_none(address: str, tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="valid: tcp://HOST:PORT"):
        Client(address, tmp_path / "client.key", "echo")


def test_a_place_that_is_taken(place: tuple[str, Path, list[str]], echo: Echo, tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="listen: .*: Address already in use"), served(echo, tmp_path / "keys", place[0]):
        pass


@pytest.mark.parametrize(
    ("message", "answer"),
    [
        ([b"\xc1"], "not one of ours"),
        ([b""], "not one of ours"),
        ([pack([1, "hello", "", [VERSION, "echo"]]), b"more"], "2 frames; expected 1"),
        ([pack({"a": 1})], "not one of ours; expected"),
        ([pack([True, "hello", "", []])], "not one of ours; expected"),
        ([pack([1, "hello", "", [1, "echo"]])], "it speaks version 1, this server version 2"),
        ([pack([1, "hello", "", []])], "it speaks version None"),
        ([pack([1, "hello", "", [np.array([1, 2]), "echo"]])], "it speaks version None"),
        ([pack([1, "hello", "", [VERSION, np.array([1, 2])]])], "it speaks version None"),
        ([pack([1, "hello", "", [VERSION, "robot"]])], "it came for a 'robot'; this server has a echo"),
    ],
)
def test_what_is_no_request_is_refused_in_one_line(
    message: list[bytes], answer: str, place: tuple[str, Path, list[str]], client: Client
) -> None:
    with raw(*place[:2]) as line:
        line.send_multipart(message)
        number, status, value = unpack(line.recv())
    assert (status, answer in value, "\n" in value) == ("refused", True, False)
    assert number == (1 if "it " in answer else 0)
    client.open()
    assert client.ask("any") == []  # it lives on


def test_a_huge_message_is_refused_and_one_beyond_all_measure_costs_the_connection(
    echo: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LIMIT", 1000)
    monkeypatch.setattr(wire, "LIMIT", 1000)
    with served(echo, tmp_path / "keys") as (address, key_file, _):
        with raw(address, key_file) as line:
            line.send(bytes(1001))
            assert unpack(line.recv()) == [0, "refused", "message: 1001 bytes; at most 1000"]
            line.send(bytes(2001))
            assert line.poll(300) == 0  # three tenths of a second for an answer that must not come
        client = Client(address, key_file, "echo")
        client.open()
        assert client.ask("any") == []
        client.close()


def test_a_token_that_was_guessed_opens_nothing(place: tuple[str, Path, list[str]], client: Client, echo: Echo) -> None:
    client.open()
    with raw(*place[:2]) as line:
        for token in ("", "0" * 32):
            for what in ("any", "close", "urge", "beat"):
                line.send(pack([7, what, token, ["x"]]))
                assert unpack(line.recv()) == [7, "lost", None]
    assert echo.events == []


def test_more_requests_than_a_client_has_are_refused(place: tuple[str, Path, list[str]], echo: Echo) -> None:
    with raw(*place[:2]) as line:
        line.send(pack([1, "open", "", []]))
        token = unpack(line.recv())[2]
        for number in range(2, 20):
            line.send(pack([number, "wait", token, []]))
        refused = [unpack(line.recv()) for _ in range(9)]  # one more, or another, where none was being answered yet
        echo.urged.set()
        rest = [unpack(line.recv()) for _ in range(9)]
        full = [answer for answer in refused + rest if answer[2] == "8 requests are waiting"]
        assert len(full) in (9, 10)
        answered = [answer[0] for answer in refused + rest if answer not in full]
        assert answered[:8] == list(range(2, 10))
        assert len(answered) + len(full) == 18
