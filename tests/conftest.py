"""No network, one nano for the whole run, folders that vanish."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before anything is imported, and inherited by every process that a test starts.
os.environ["ANYBIND_OFFLINE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

if TYPE_CHECKING:
    from anybind.agent import Runtime
    from anybind.assembly import Assembly

ROOT = Path(__file__).resolve().parent.parent


# ---------------------------------------------------------------- no network


class NetworkUsed(AssertionError):
    """A test reached for the network; an AssertionError, so that no library takes it for failure
    of the network and tries again."""


def _local(address: Any) -> bool:
    host = address[0] if isinstance(address, tuple) else address
    return isinstance(address, (str, bytes)) or host in ("127.0.0.1", "::1", "localhost", "")


_connect, _connect_ex, _getaddrinfo = (
    socket.socket.connect,
    socket.socket.connect_ex,
    socket.getaddrinfo,
)


def _guarded_connect(self: socket.socket, address: Any) -> None:
    if not _local(address):
        raise NetworkUsed(f"a test connects to {address}")
    _connect(self, address)


def _guarded_connect_ex(self: socket.socket, address: Any) -> int:
    if not _local(address):
        raise NetworkUsed(f"a test connects to {address}")
    return _connect_ex(self, address)


def _guarded_getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
    if host is not None and not _local((host,)):
        raise NetworkUsed(f"a test looks up {host}")
    return _getaddrinfo(host, *args, **options)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Sockets reach this machine only."""
    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", _guarded_connect)
    patch.setattr(socket.socket, "connect_ex", _guarded_connect_ex)
    patch.setattr(socket, "getaddrinfo", _guarded_getaddrinfo)
    yield
    patch.undo()


# ---------------------------------------------------------------- the real thing


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of real media."""
    return ROOT / "examples"


@pytest.fixture(scope="session")
def nano() -> Iterator[Assembly]:
    """The bundle nano; its components are built on first use and shared by all tests."""
    from anybind.assembly import Assembly

    assembly = Assembly("nano")
    if missing := assembly.missing_weights():
        pytest.fail(
            f"nano is not complete: {', '.join(sorted(missing))} missing. "
            "Fetch what can be fetched with: make setup (or: anybind doctor --fetch)",
            pytrace=False,
        )
    yield assembly
    assembly.close()


@pytest.fixture(scope="session")
def runtime(nano: Assembly) -> Iterator[Runtime]:
    """What sessions on nano work with, shared by all tests; holds no conversation."""
    from anybind.agent import Runtime

    yield Runtime(nano)


@pytest.fixture
def session_folder(tmp_path: Path) -> Path:
    """Where a test may keep a session."""
    return tmp_path / "session"
