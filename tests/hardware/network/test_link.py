"""A link that is lost, slow or gone for good, as either side sees it: beats, stops, silence."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardware.network import client as client_module
from hardware.network import keys, server
from hardware.network.client import Client, NoAnswer
from hardware.network.keys import ServerKeys
from hardware.network.server import Server
from hardware.network.wire import VERSION, pack, unpack
from hardware.types import HardwareError
from tests.hardware.network.serving import ANYWHERE, Echo, raw, served
from tests.waiting import until

zmq = pytest.importorskip("zmq")


def test_urging_is_heard_while_a_request_is_answered(client: Client, echo: Echo) -> None:
    client.open()
    asking = threading.Thread(target=client.ask, args=("wait",), kwargs={"within_s": 10.0})
    asking.start()
    client.urge("stop")
    asking.join()
    assert echo.events == ["urged: stop", "wait"]


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


def test_a_stop_is_said_also_to_a_server_that_was_silent_for_long(client: Client, echo: Echo) -> None:
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
    until(lambda: "left: link lost" in echo.events)
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
        until(lambda: "left: link lost" in echo.events)
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
