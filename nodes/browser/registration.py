"""Gives the pack's routes to ComfyUI's server."""

import logging

from ..comfy_bridge.server import routes
from . import look_routes, run_routes

log = logging.getLogger(__name__)


def register_routes() -> None:
    """Add all routes to the server's table, once; nothing where there is no server.

    A second copy of the pack, in a folder of another name, must not add them again: the server would refuse
    to start.
    """
    table = routes()
    if table is None:
        return
    if any(getattr(route, "path", "") == run_routes.RUNS_PATH for route in table):
        log.warning("SDXL Trainer: the pack is there twice; the panel shows the runs of the first copy")
        return
    run_routes.register(table)
    look_routes.register(table)
