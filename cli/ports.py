"""Ports on loopback: which are free, and a clear error for one that is not."""

import socket
from collections.abc import Mapping

from shared.errors import SettingsError


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def require_free(ports: Mapping[str, int]) -> None:
    """Raise `SettingsError` naming every setting (the key) whose port is taken."""
    taken = [f"Port {port} is taken (DRIFT_{name.upper()})." for name, port in ports.items() if not is_free(port)]
    if taken:
        raise SettingsError("\n".join(taken), remedy="Free it, or set another port in the environment or in `.env`.")


def choose_free(ports: Mapping[str, int]) -> dict[str, int]:
    """Each port where it is free, else (and for port 0) another that is; all different."""
    chosen: dict[str, int] = {}
    for name, port in ports.items():
        while port == 0 or not is_free(port) or port in chosen.values():
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
        chosen[name] = port
    return chosen
