"""Ports: a taken one is named by its setting, and another is found where the caller does not mind."""

import socket
from collections.abc import Iterator

import pytest

from cli.ports import choose_free, is_free, require_free
from shared.errors import SettingsError


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_taken_port_is_named_by_its_setting(taken: int) -> None:
    with pytest.raises(SettingsError, match=rf"Port {taken} is taken \(DRIFT_ENGINE_PORT\)"):
        require_free({"engine_port": taken})


def test_other_ports_are_chosen_all_different_and_never_zero(taken: int) -> None:
    chosen = choose_free({"a": taken, "b": 0, "c": 0, "d": taken})
    assert len(set(chosen.values())) == 4
    assert all(port and port != taken and is_free(port) for port in chosen.values())
    free = chosen["b"]
    assert choose_free({"a": free}) == {"a": free}
