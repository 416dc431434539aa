"""The pack's routes in the server's table: there once, and nowhere without a server."""

import sys
import types

import pytest
from aiohttp import web

RUN = "/sdxl_trainer/runs/{id}"


@pytest.fixture
def register():
    from sdxl_trainer.nodes.browser.registration import register_routes

    return register_routes


@pytest.fixture
def table(monkeypatch):
    """The table of routes of a server that has not started yet."""
    module = types.ModuleType("server")
    instance = types.SimpleNamespace(routes=web.RouteTableDef())
    module.PromptServer = types.SimpleNamespace(instance=instance)
    monkeypatch.setitem(sys.modules, "server", module)
    return instance.routes


def start_as_comfyui_does(table):
    """Raises where a route stands twice."""
    mirrored = web.RouteTableDef()
    for route in table:
        mirrored.route(route.method, "/api" + route.path)(route.handler, **route.kwargs)
    app = web.Application()
    app.add_routes(mirrored)
    app.add_routes(table)


def test_all_routes_are_there_and_only_wishes_and_looks_are_posted(register, table):
    register()
    start_as_comfyui_does(table)
    routes = {(route.method, route.path) for route in table}
    assert {("GET", "/sdxl_trainer/runs"), ("GET", RUN), ("GET", f"{RUN}/report")} <= routes
    posted = {path for method, path in routes if method != "GET"}
    assert posted == {f"{RUN}/wishes", "/sdxl_trainer/looks/dataset", "/sdxl_trainer/looks/settings"}


def test_a_second_copy_of_the_pack_does_not_keep_the_server_from_starting(register, table):
    register()
    before = list(table)
    register()
    assert list(table) == before
    start_as_comfyui_does(table)


def test_without_a_server_there_is_nothing_to_do(register, monkeypatch):
    monkeypatch.delitem(sys.modules, "server", raising=False)
    register()
    module = types.ModuleType("server")
    monkeypatch.setitem(sys.modules, "server", module)
    register()
    module.PromptServer = object
    register()


def test_a_server_that_has_closed_its_loop_is_no_error(monkeypatch, table):
    from sdxl_trainer.nodes.comfy_bridge.server import broadcast

    def closed(*_):
        raise RuntimeError("Event loop is closed")

    sys.modules["server"].PromptServer.instance.send_sync = closed
    broadcast("sdxl_trainer.run", {})
