"""Both sides of the socket, the service a plain one: who is let in, what is refused, what is heard when, what becomes of a lost link."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware.network import client as client_module
from hardware.network import keys, server, wire
from hardware.network.client import Client, NoAnswer
from hardware.network.keys import ClientKeys, ServerKeys
from hardware.network.server import Server
from hardware.network.wire import VERSION, pack, unpack
from hardware.types import HardwareError
from tests.hardware.network.serving import ANYWHERE, served

zmq = pytest.importorskip("zmq")


class Echo:
    """Answers what it is asked; `wait` answers when it is urged."""

    kind = "echo"
    facts = {"colour": "red"}

    def __init__(self) -> None:
        self.events: list[str] = []
        self.urged = threading.Event()

    def answer(self, what: str, arguments: list[Any]) -> Any:
        if what == "fail":
            raise ValueError("two\nlines")
        if what == "wait":
            self.urged.wait(10.0)
        self.events.append(what)
        return arguments

    def urge(self, reason: str) -> None:
        self.events.append(f"urged: {reason}")
        self.urged.set()

    def left(self, reason: str) -> None:
        self.events.append(f"left: {reason}")


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def place(echo: Echo, tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    with served(echo, tmp_path / "keys") as found:
        yield found


@pytest.fixture
def client(place: tuple[str, Path, list[str]]) -> Iterator[Client]:
    client = Client(place[0], place[1], "echo")
    yield client
    client.close()


def raw(address: str, key_file: Path) -> Any:
    """A client that says what it likes, with a known key."""
    own = ClientKeys.load(key_file)
    line = zmq.Context.instance().socket(zmq.DEALER)
    line.linger, line.rcvtimeo, line.sndtimeo = 0, 5000, 5000
    line.curve_serverkey, line.curve_secretkey, line.curve_publickey = own.server, own.secret, zmq.curve_public(own.secret)
    line.connect(address)
    return line  # closes itself at the end of `with`


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


def test_urging_is_heard_while_a_request_is_answered(client: Client, echo: Echo) -> None:
    client.open()
    asking = threading.Thread(target=client.ask, args=("wait",), kwargs={"within_s": 10.0})
    asking.start()
    client.urge("stop")
    asking.join()
    assert echo.events == ["urged: stop", "wait"]


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


def test_a_client_that_leaves_while_its_messages_wait_takes_nobody_along(
    place: tuple[str, Path, list[str]], client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ZeroMQ's heartbeats libzmq aborts the process, half a second later."""
    hear, ends = Server._hear, time.monotonic() + 1.5

    def late(self: Server, parts: list[bytes]) -> None:
        if time.monotonic() < ends:
            time.sleep(0.05)
        hear(self, parts)

    monkeypatch.setattr(Server, "_hear", late)
    with raw(*place[:2]) as line:
        for _ in range(200):
            line.send(pack([1, "hello", "", [VERSION, "echo"]]))
        time.sleep(0.5)
    time.sleep(max(0.0, ends - time.monotonic()))
    client.open()
    assert client.ask("any") == []


def test_a_stop_that_nobody_heard_is_not_taken_for_heard(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to an older beat is none to it."""
    monkeypatch.setattr(client_module, "BEAT_S", 0.01)
    monkeypatch.setattr(client_module, "ANSWER_S", 0.3)
    client.open()
    time.sleep(0.1)
    monkeypatch.setattr(Server, "_hear", lambda self, parts: None)
    with pytest.raises(NoAnswer, match="`urge` got no answer in 0.3 s"):
        client.urge("stop")


def test_a_stop_is_said_also_to_a_server_that_was_silent_for_long(client: Client, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    client.open()
    client._unheard = 1000
    client.urge("stop")
    assert echo.events == ["urged: stop"] and client._unheard < 1000


def test_a_silence_renews_both_sockets(place: tuple[str, Path, list[str]], client: Client) -> None:
    """Beats that go by a dead socket would lose the client that asks by a fresh one."""
    client.open()
    stale = client._urgent._socket or client._urgent._opened()
    with pytest.raises(NoAnswer):
        client.ask("wait", within_s=0.1)
    assert stale.closed


def test_a_client_that_is_no_longer_heard_makes_room(
    place: tuple[str, Path, list[str]], echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOST_S", 0.3)
    monkeypatch.setattr(client_module, "BEAT_S", 60.0)  # as one that hangs
    hangs = Client(place[0], place[1], "echo")
    hangs.open()
    wait_for(lambda: "left: link lost" in echo.events)
    assert echo.events == ["urged: link lost", "left: link lost"]
    with pytest.raises(NoAnswer, match="did not hear us for too long"):
        hangs.ask("any")
    assert not hangs.is_open
    hangs.open()
    assert hangs.ask("any") == []
    hangs.close()


def test_what_a_lost_client_still_had_to_ask_is_not_done(
    place: tuple[str, Path, list[str]], echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset, say: the arm would drive home for nobody."""
    monkeypatch.setattr(server, "LOST_S", 0.3)
    with raw(*place[:2]) as line:
        line.send(pack([1, "open", "", []]))
        token = unpack(line.recv())[2]
        for number, what in enumerate(("wait", "reset"), 2):
            line.send(pack([number, what, token, []]))
        wait_for(lambda: "left: link lost" in echo.events)
    assert echo.events == ["urged: link lost", "wait", "left: link lost"]


def test_beats_keep_a_client_that_has_nothing_to_ask(client: Client, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second without a request."""
    monkeypatch.setattr(server, "LOST_S", 0.25)
    monkeypatch.setattr(client_module, "BEAT_S", 0.02)
    client.open()
    time.sleep(0.5)
    assert client.ask("any") == []
    assert echo.events == ["any"]


def test_a_server_that_dies_is_not_waited_for_as_long_as_an_answer_may_take(
    tmp_path: Path, echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BEAT_S", 0.02)
    monkeypatch.setattr(client_module, "BEATS", 10)
    keys.make(tmp_path / "keys")
    with ThreadPoolExecutor(1) as pool:
        with Server(echo, ANYWHERE, ServerKeys.load(tmp_path / "keys")) as server:  # nobody answers for it: the arm is on its way home
            client = Client(server.address, tmp_path / "keys" / keys.CLIENT, "echo")
            client.open()
            asked = pool.submit(client.ask, "any", within_s=60.0)
            time.sleep(0.6)
            assert not asked.done()  # it lives, and is waited for
        with pytest.raises(NoAnswer, match=r"`any` got no answer in \d\.?\d* s; nobody listens there"):
            asked.result(10.0)
    client.close()


def test_a_server_that_was_started_anew_is_not_waited_for_either(tmp_path: Path, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers beats, too: that it knows nobody."""
    monkeypatch.setattr(client_module, "BEAT_S", 0.02)
    monkeypatch.setattr(client_module, "BEATS", 10)
    keys.make(tmp_path / "keys")
    own = ServerKeys.load(tmp_path / "keys")
    with ThreadPoolExecutor(1) as pool:
        with Server(echo, ANYWHERE, own) as server:
            client = Client(server.address, tmp_path / "keys" / keys.CLIENT, "echo")
            client.open()
            asked = pool.submit(client.ask, "any", within_s=60.0)
        with Server(echo, server.address, own), pytest.raises(NoAnswer, match="somebody listens there"):
            asked.result(10.0)
    client.close()


def test_a_server_that_was_started_anew_knows_nobody(tmp_path: Path, echo: Echo) -> None:
    with served(echo, tmp_path / "keys") as (address, key_file, _):
        client = Client(address, key_file, "echo")
        client.open()
    with pytest.raises(NoAnswer, match=r"`any` got no answer in 0\.2 s; nobody listens there"):
        client.ask("any", within_s=0.2)
    with served(echo, tmp_path / "keys", address):
        with pytest.raises(NoAnswer, match="started anew"):
            client.ask("any", within_s=10.0)
        client.open()
        assert client.ask("any") == []
        client.close()


def test_an_answer_that_came_too_late_is_not_taken_for_another(client: Client, echo: Echo) -> None:
    client.open()
    with pytest.raises(NoAnswer):
        client.ask("wait", "old", within_s=0.1)
    echo.urged.set()
    assert client.ask("any", "new") == ["new"]


def test_a_thread_that_fails_stops_what_is_served(tmp_path: Path, echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    keys.make(tmp_path / "keys")
    with Server(echo, ANYWHERE, ServerKeys.load(tmp_path / "keys")) as deaf:
        monkeypatch.setattr(deaf, "_hear", lambda parts: 1 / 0)
        with raw(deaf.address, tmp_path / "keys" / keys.CLIENT) as line:
            line.send(b"x")
            with pytest.raises(HardwareError, match="no longer listening: ZeroDivisionError"):
                deaf.run(time.monotonic() + 10)
    assert echo.events == ["urged: server failed"]


def wait_for(condition, seconds: float = 10.0) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)
