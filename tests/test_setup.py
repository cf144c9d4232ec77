"""The set-up script, with a uv that writes down what it was asked instead of downloading."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCK = """numpy==1.26.4 \\
    --hash=sha256:aa
nvidia-cublas==13.4.1.3 ; sys_platform == 'linux' \\
    --hash=sha256:bb
torch==2.15.0 \\
    --hash=sha256:cc
torchvision==0.29.2 \\
    --hash=sha256:dd
triton==3.9.0 \\
    --hash=sha256:ee
zarr==3.1.5 \\
    --hash=sha256:ff
"""
UV = f"""#!/bin/sh
printf '%s\\n' "$*" >>uv.log
[ "$1" = venv ] && {sys.executable} -m venv --without-pip .venv
[ -e uv.fails ] && {{ echo "no network" >&2; exit 1; }}
exit 0
"""


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


class Project:
    """A project of nothing but the set-up script, on a machine whose uv and apt-get only take notes."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin = root / "a project", root / "bin"
        (self.root / ".ci").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / ".ci" / "setup", self.root / ".ci" / "setup")
        (self.root / "requirements.lock").write_text(LOCK)
        (self.root / "pyproject.toml").write_text("")
        script(self.bin / "uv", UV)
        script(self.bin / "apt-get", '#!/bin/sh\necho "$*" >>apt.log\n[ ! -e apt.fails ]\n')
        script(self.bin / "df", "#!/bin/sh\necho header\necho disk 1 1 $((${FREE_MIB:-100000} * 1024)) 1 /\n")

    def setup(self, **environment: str) -> tuple[int, list[str], list[str]]:
        """(exit code, lines said, calls of uv since the last set-up)"""
        log = self.root / "uv.log"
        log.unlink(missing_ok=True)
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        clean = {k: v for k, v in os.environ.items() if k not in ("TORCH_BACKEND", "PYTHON", "PYTHONPATH")}
        environment = {"PYTHON": sys.executable, "PATH": path, **environment}
        done = subprocess.run(
            [self.root / ".ci" / "setup"], capture_output=True, text=True, env=clean | environment, stdin=subprocess.DEVNULL
        )
        assert done.stdout == ""
        return done.returncode, done.stderr.splitlines(), log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_lock_is_installed_with_hashes_once(project: Project) -> None:
    code, said, calls = project.setup()
    assert code == 0 and len(said) == 1, said
    assert calls == [
        f"venv -q --python {sys.executable} .venv",
        "pip install -q --require-hashes --no-deps --reinstall-package torch --reinstall-package torchvision -r requirements.lock",
        "pip install -q --no-deps --no-build-isolation -e .",
    ]
    start = time.monotonic()
    assert project.setup() == (0, [], [])
    assert time.monotonic() - start < 3
    (project.root / "requirements.lock").write_text(LOCK.replace("3.1.5", "3.1.6"))
    _, _, calls = project.setup()
    assert calls == ["pip install -q --require-hashes --no-deps -r requirements.lock", "pip install -q --no-deps --no-build-isolation -e ."]


def test_another_torch_keeps_the_rest_hashed_and_stays_until_another_is_named(project: Project) -> None:
    project.setup()
    code, _, calls = project.setup(TORCH_BACKEND="cpu")
    assert code == 0
    assert calls[:2] == [
        "pip install -q --require-hashes --no-deps -r .venv/other.lock",
        "pip install -q --reinstall-package torch --reinstall-package torchvision --torch-backend=cpu torch==2.15.0 torchvision==0.29.2",
    ]
    kept = [line.split("==")[0] for line in (project.root / ".venv" / "other.lock").read_text().splitlines() if "==" in line]
    assert kept == ["numpy", "zarr"]
    assert project.setup() == (0, [], [])
    _, _, calls = project.setup(TORCH_BACKEND="lock")
    assert calls[0].endswith("--reinstall-package torch --reinstall-package torchvision -r requirements.lock")


def test_a_failed_install_is_said_and_tried_again(project: Project) -> None:
    project.setup()
    (project.root / "pyproject.toml").write_text("# changed")
    (project.root / "uv.fails").touch()
    code, said, _ = project.setup()
    assert (code, said[1:]) == (2, ["no network", "setup: error: uv could not install requirements.lock; its reason stands above"])
    (project.root / "uv.fails").unlink()
    code, _, calls = project.setup()
    assert code == 0 and len(calls) == 2


def test_a_moved_project_gets_a_new_environment(project: Project, tmp_path: Path) -> None:
    project.setup()
    project.root = project.root.rename(tmp_path / "elsewhere")
    code, said, calls = project.setup()
    assert code == 0 and said[0] == "setup: making .venv anew" and calls[0].startswith("venv ")


def python_that(folder: Path, *, version: str | None = None, lacks: str | None = None) -> str:
    """This Python, but claiming another version or unable to load a library."""
    shim = folder / "shim"
    shim.mkdir()
    lines = ["import sys"]
    if version:
        lines += [f"sys.version_info = ({version.replace('.', ', ')})"]
    if lacks:
        (shim / "ctypes.py").write_text(
            f"import os\ndef CDLL(name):\n    if name == {lacks!r} and not os.path.exists('apt.log'):\n        raise OSError(name)\n"
        )
    (shim / "sitecustomize.py").write_text("\n".join(lines))
    script(folder / "python", f'#!/bin/sh\nPYTHONPATH="{shim}" exec {sys.executable} "$@"\n')
    return str(folder / "python")


def test_wrong_circumstances_cost_one_line_and_nothing_is_made(project: Project, tmp_path: Path) -> None:
    for environment, expected in [
        ({"TORCH_BACKEND": "mps"}, "TORCH_BACKEND: 'mps' is not a build of torch; valid: lock, auto, cpu"),
        ({"PYTHON": python_that(tmp_path, version="3.10.1")}, "Python 3.11 to 3.13 is needed"),
        ({"FREE_MIB": "500"}, "disk full: 8500 MiB needed for the packages, 500 MiB free"),
        ({"FREE_MIB": "500", "TORCH_BACKEND": "cpu"}, "disk full: 3000 MiB needed for the packages, 500 MiB free"),
    ]:
        code, said, calls = project.setup(**environment)
        assert (code, len(said), calls) == (2, 1, []), (said, calls)
        assert said[0].startswith("setup: error: ") and expected in said[0]
        assert not (project.root / ".venv").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux draws through EGL")
@pytest.mark.parametrize("user", ["0", "1000"])
def test_a_missing_gl_library_is_installed_by_root_and_named_to_others(project: Project, tmp_path: Path, user: str) -> None:
    script(project.bin / "id", f"#!/bin/sh\necho {user}\n")
    code, said, _ = project.setup(PYTHON=python_that(tmp_path, lacks="libEGL.so.1"))
    apt = project.root / "apt.log"
    if user == "0":
        assert code == 0 and "installing system libraries for headless OpenGL" in said[0]
        assert "install -y --no-install-recommends libegl1 libgl1" in apt.read_text()
    else:
        assert (code, len(said), apt.exists()) == (2, 1, False)
        assert "missing libEGL.so.1 for headless OpenGL; Debian/Ubuntu: sudo apt-get install libegl1" in said[0]


def test_what_apt_cannot_install_is_an_error(project: Project, tmp_path: Path) -> None:
    script(project.bin / "id", "#!/bin/sh\necho 0\n")
    (project.root / "apt.fails").touch()
    code, said, calls = project.setup(PYTHON=python_that(tmp_path, lacks="libGL.so.1"))
    assert code == 2 and calls == [] and said[-1].startswith("setup: error: apt-get could not install libegl1")
