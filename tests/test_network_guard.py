"""The guard that keeps the suite off the network, held against itself."""

import socket
import urllib.request

import pytest


def test_connections_off_this_machine_are_refused_and_recorded(_refused_connections):
    with pytest.raises(OSError, match="tests must not use the network"):
        urllib.request.urlopen("http://example.com", timeout=5)
    with pytest.raises(OSError, match="tests must not use the network"), socket.socket() as plain:
        plain.connect(("192.0.2.1", 80))
    assert len(_refused_connections) == 2
    _refused_connections.clear()


def test_this_machine_itself_may_be_reached(_refused_connections):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
    assert not _refused_connections
