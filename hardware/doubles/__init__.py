"""Doubles: programs that speak an arm's protocol over a real transport, with MuJoCo physics behind it, for the vendor's own SDK to talk to.

    with launch("ur5e") as double:
        arm = drive("ur5e", double.address)

A double runs in a process of its own. `double.panel` is memory shared with it: faults to inject, and what is true of the arm.
"""

from hardware.doubles.process import Double, launch

__all__ = ["Double", "launch"]
