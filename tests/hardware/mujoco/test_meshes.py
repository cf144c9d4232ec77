"""Meshes lose faces, not their shape; only those that are merely looked at."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import mujoco
import numpy as np

from hardware.mujoco.meshes import FACES_KEPT, lighten


def dense_sphere(path: Path) -> None:
    u, v = np.meshgrid(np.linspace(0, 2 * np.pi, 81), np.linspace(0, np.pi, 41))
    points = 0.1 * np.stack([np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)], axis=-1) + (0.0, 0.0, 0.05)
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in points.reshape(-1, 3)]
    for row in range(40):
        for column in range(80):
            a, b = row * 81 + column + 1, (row + 1) * 81 + column + 1
            lines += [f"f {a} {b} {b + 1}", f"f {a} {b + 1} {a + 1}"]
    path.write_text("\n".join(lines))


def scene(mesh: Path) -> str:
    return f"""<mujoco><asset>
      <texture name="t" type="2d" builtin="checker" width="8" height="8" rgb1="1 0 0" rgb2="0 1 0"/><material name="m" texture="t"/>
      <mesh name="seen" file="{mesh}"/><mesh name="solid" file="{mesh}"/><mesh name="painted" file="{mesh}"/></asset>
    <worldbody><body><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
      <geom name="seen" type="mesh" mesh="seen" contype="0" conaffinity="0" group="1"/>
      <geom name="solid" type="mesh" mesh="solid"/>
      <geom name="painted" type="mesh" mesh="painted" material="m" contype="0" conaffinity="0"/>
    </body></worldbody></mujoco>"""


def test_only_untextured_visual_meshes_are_simplified_and_keep_their_shape(tmp_path):
    dense_sphere(tmp_path / "ball.obj")
    before = mujoco.MjModel.from_xml_string(scene(tmp_path / "ball.obj"))
    after = mujoco.MjModel.from_xml_string(lighten(scene(tmp_path / "ball.obj"), tmp_path / "cache"))
    faces = {m: (before.mesh(m).facenum[0], after.mesh(m).facenum[0]) for m in ("seen", "solid", "painted")}
    assert faces["solid"][0] == faces["solid"][1]
    assert faces["painted"][0] == faces["painted"][1]
    assert faces["seen"][0] > 6000
    assert faces["seen"][1] <= 1.2 * FACES_KEPT
    np.testing.assert_allclose(after.geom("seen").pos, [0, 0, 0.05], atol=2e-3)  # not moved
    np.testing.assert_allclose(after.geom("seen").rbound, before.geom("seen").rbound, rtol=0.03)
    data = mujoco.MjData(after)
    mujoco.mj_forward(after, data)
    start = after.mesh("seen").vertadr[0]
    vertices = after.mesh_vert[start : start + after.mesh("seen").vertnum[0]]
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 0.1, atol=3e-3)


def test_copies_are_made_once_and_belong_to_the_content_of_the_original(tmp_path):
    ball, cache = tmp_path / "ball.obj", tmp_path / "cache"
    dense_sphere(ball)
    lighten(scene(ball), cache)
    (copy,) = cache.iterdir()
    written = copy.stat().st_mtime_ns
    lighten(scene(ball), cache)
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [written]
    ball.write_text(ball.read_text() + "\n# another")
    lighten(scene(ball), cache)
    assert len(list(cache.iterdir())) == 2


def test_a_small_mesh_stays_the_file_it_is(tmp_path):
    tetrahedron = tmp_path / "small.obj"
    tetrahedron.write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")
    for _ in range(2):  # decided, and remembered
        root = ET.fromstring(lighten(scene(tetrahedron), tmp_path / "cache"))
        assert {mesh.get("file") for mesh in root.iter("mesh")} == {str(tetrahedron)}
