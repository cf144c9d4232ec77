"""Long-term keys of both sides, made once: the server knows its clients by theirs, and they know it by its own (ZeroMQ's CURVE)."""

from __future__ import annotations

import json
import os
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path

from hardware.network import library
from hardware.types import HardwareError

SERVER, CLIENT, KNOWN = "server.key", "client.key", "known_clients"


@dataclass(frozen=True)
class ServerKeys:
    """Of a folder that `make` made: server.key stays there, client.key goes to the other computer, known_clients lists who may come."""

    secret: bytes = field(repr=False)
    known: frozenset[bytes]  # public keys

    @classmethod
    def load(cls, folder: Path) -> ServerKeys:
        """Raises HardwareError: absent, damaged, or open to others."""
        secret = _read(folder / SERVER, "secret")["secret"]
        file = folder / KNOWN
        try:
            if (mode := file.stat().st_mode & 0o777) & 0o022:
                raise HardwareError(f"{file}: mode {mode:o}, so that others may let themselves in; expected 600: chmod 600 {file}")
            lines = file.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise HardwareError(f"{file}: {error}; expected one public key of a client per line") from error
        known = frozenset(_key(file, line) for line in lines if line.strip())
        if not known:
            raise HardwareError(f"{file}: no client is known; expected one public key per line, of 40 characters")
        return cls(secret, known)


@dataclass(frozen=True)
class ClientKeys:
    """What a client shows, and whom it expects to meet."""

    secret: bytes = field(repr=False)
    server: bytes  # public

    @classmethod
    def load(cls, file: Path) -> ClientKeys:
        """Raises HardwareError: absent, damaged, or open to others."""
        found = _read(file, "secret", "server")
        return cls(found["secret"], found["server"])


def make(folder: Path) -> bool:
    """Keys of a server and of one client, where the folder is absent or empty; True then. What is in it is never overwritten.

    The folder appears whole or not at all, its files readable by their owner only. Raises HardwareError.
    """
    if folder.is_dir() and any(folder.iterdir()):
        return False
    zmq = library("zmq")
    server, client = zmq.curve_keypair(), zmq.curve_keypair()
    texts = {
        SERVER: json.dumps({"secret": server[1].decode()}),
        CLIENT: json.dumps({"secret": client[1].decode(), "server": server[0].decode()}),
        KNOWN: client[0].decode(),
    }
    half = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}.tmp")
    try:
        half.mkdir(mode=0o700, parents=True)
        for name, text in texts.items():
            with os.fdopen(os.open(half / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
        os.rename(half, folder.absolute())  # in place of an empty folder; refused where it has become another
    except OSError as error:
        raise HardwareError(f"{folder}: no keys made: {error.strerror}") from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return True


def _read(file: Path, *names: str) -> dict[str, bytes]:
    try:
        mode = file.stat().st_mode & 0o777
        if mode & 0o077:
            raise HardwareError(f"{file}: mode {mode:o}, so that others may read the key; expected 600: chmod 600 {file}")
        data = json.loads(file.read_text(encoding="ascii"))
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "damaged"
        raise HardwareError(f"{file}: {why}; expected a key file of `robolearn serve --keys FOLDER`") from error
    found = data if isinstance(data, dict) else {}
    return {name: _key(file, found.get(name)) for name in names}


def _key(file: Path, text: object) -> bytes:
    try:
        key = str(text).strip().encode("ascii")
        library("zmq.utils.z85").decode(key)
    except (ValueError, KeyError, struct.error):
        key = b""
    if len(key) != 40:
        raise HardwareError(f"{file}: damaged: a key in it is none; expected 40 characters of Z85")
    return key
