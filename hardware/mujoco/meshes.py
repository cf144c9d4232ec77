"""Fewer triangles for what is only looked at: drawing the Panda's 170 000 visual faces costs more than its physics."""

from __future__ import annotations

import hashlib
import os
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import fast_simplification
import mujoco
import numpy as np

FACES_KEPT = 700  # small parts (fingers, screws) are the ones seen close up by the wrist camera: left alone
FACES_SHARE = 0.08  # of a dense part; at 84 to 224 pixels the silhouette does not change
_VERSION = b"1"  # of the recipe below; part of the cache key


def lighten(xml: str, folder: Path | None = None) -> str:
    """The same MJCF with every dense, untextured, purely visual mesh replaced by a simplified copy.

    Collision meshes and textured meshes are untouched. Copies are binary STL files in `folder` (default: the user's
    cache), named by the content of the original, written atomically and reused.
    """
    root = ET.fromstring(xml)
    asset = root.find("asset")
    if asset is None:
        return xml
    textured = {m.get("name") for m in asset.iter("material") if m.get("texture")}
    geoms = [g for g in root.iter("geom") if g.get("mesh")]
    solid = {g.get("mesh") for g in geoms if g.get("contype") != "0" or g.get("conaffinity") != "0" or g.get("material") in textured}
    folder = folder or _cache_folder()
    for mesh in asset.iter("mesh"):
        file = mesh.get("file")
        if file and mesh.get("name") not in solid:
            mesh.set("file", str(_simplified(Path(file), folder)))
            mesh.set("inertia", "shell")  # an open surface has no volume; the bodies' inertia is given explicitly
    return ET.tostring(root, encoding="unicode")


def _simplified(file: Path, folder: Path) -> Path:
    """A copy of mesh `file` with fewer faces, or `file` itself where it is already small."""
    recipe = f"{FACES_KEPT} {FACES_SHARE}".encode() + _VERSION
    copy = folder / f"{file.stem}-{hashlib.sha256(file.read_bytes() + recipe).hexdigest()[:16]}.stl"
    if copy.exists():
        return copy if copy.stat().st_size else file
    vertices, faces = _load(file)
    if len(faces) <= FACES_KEPT:
        data = b""  # remembered as "keep the original"
    else:
        target = max(FACES_KEPT, int(FACES_SHARE * len(faces)))
        data = _stl(*_simplify(vertices, faces, target))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as out:
        out.write(data)
    os.replace(out.name, copy)
    return copy if data else file


def _simplify(vertices: np.ndarray, faces: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Collapse edges (Garland & Heckbert, SIGGRAPH 1997). A ragged mesh (the pedestal), whose open edges cannot collapse,
    keeps too many: its vertices are first drawn together on a grid, coarser and coarser."""
    cells = 512  # along the longest side
    points, corners = vertices, faces
    while True:
        simple_vertices, simple_faces = fast_simplification.simplify(points, corners, target_count=target)[:2]
        if len(simple_faces) <= 1.2 * target or cells <= 16:
            return simple_vertices, simple_faces
        cells //= 2
        cell = np.ptp(vertices, axis=0).max() / cells
        merged, index = np.unique((vertices / cell).round(), axis=0, return_inverse=True)
        joined = index.reshape(-1)[faces]
        alive = (np.diff(np.sort(joined, axis=1), axis=1) > 0).all(axis=1)
        points, corners = (merged * cell).astype(np.float32), joined[alive].astype(np.int32)


def _load(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices float32 (V, 3) in the file's own frame, coincident ones merged so that edges can collapse; faces int32 (F, 3)."""
    spec = mujoco.MjSpec()
    spec.add_mesh(name="mesh", file=str(file), inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname="mesh")
    model = spec.compile()
    rotation = np.zeros(9)
    mujoco.mju_quat2Mat(rotation, model.mesh_quat[0])  # MuJoCo stores vertices in the mesh's inertial frame
    vertices = model.mesh_vert @ rotation.reshape(3, 3).T + model.mesh_pos[0]
    merged, index = np.unique(vertices.round(6), axis=0, return_inverse=True)
    return merged.astype(np.float32), index.reshape(-1)[model.mesh_face].astype(np.int32)


def _stl(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """Binary STL: 80 bytes of header, a count, then per face a normal (left zero: the reader computes it), 3 corners, 2 spare bytes."""
    triangles = np.zeros(len(faces), [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")])
    triangles["corners"] = vertices[faces]
    return bytes(80) + len(faces).to_bytes(4, "little") + triangles.tobytes()


def _cache_folder() -> Path:
    """The user's cache folder for meshes; a throw-away one where that cannot be written."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robolearn" / "meshes"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="robolearn-meshes-"))
