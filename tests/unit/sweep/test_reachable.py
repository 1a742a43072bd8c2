"""An address at which nothing listens is refused before Ray, which would try for a quarter of an hour."""

import socket

import pytest

from vqscale.errors import ClusterError
from vqscale.study.spec import Resources
from vqscale.sweep.client import RayDriver
from vqscale.sweep.reachable import require_listener


@pytest.fixture
def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_address_without_a_listener_is_refused(form: str, free_port: int) -> None:
    with pytest.raises(ClusterError, match=r"no Ray cluster answers there \(Connection refused\)"):
        require_listener(form.format(free_port))


def test_address_without_a_listener_starts_no_driver(free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port}")
    with pytest.raises(ClusterError):
        RayDriver(None, Resources()).open()


@pytest.mark.parametrize("address", ["host.invalid:6379", "127.0.0.1:99999"])
def test_address_that_cannot_be_is_refused(address: str) -> None:
    with pytest.raises(ClusterError, match=address):
        require_listener(address)


@pytest.mark.parametrize("address", ["auto", "local"])
def test_address_that_ray_resolves_is_left_to_it(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda *where: asked.append(where))
    require_listener(address)
    assert asked == []


def test_address_with_a_listener_is_accepted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        require_listener(f"127.0.0.1:{server.getsockname()[1]}")
        server.accept()[0].close()  # it was asked
