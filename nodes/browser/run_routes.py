"""What a browser may ask about runs over HTTP. Reading changes nothing; a wish is a POST of JSON.

Nothing of a request is ever made into a path: ids, steps and places are looked up in tables.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from ...trainer.runs.drawings import UNREADABLE
from .asked_wishes import WISHES
from .earlier_runs import EarlierRuns
from .json_body import BadRequestError, answer, json_body, refusal
from .live_runs import LiveRuns
from .small_pictures import SmallPictures

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

RUNS_PATH = "/sdxl_trainer/runs"
UNKNOWN_RUN = "there is no such run: the server was started anew, or its folder is gone"
PICTURE_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
REPORT_HEADERS = {
    **PICTURE_HEADERS,
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox",
    "Referrer-Policy": "no-referrer",
}


class RunRoutes:
    """The handlers. Files are looked at in other threads: the server's loop never waits for a disk."""

    def __init__(self, runs: LiveRuns, earlier: EarlierRuns) -> None:
        self._runs, self._earlier = runs, earlier
        self._small = SmallPictures()

    def register(self, routes: web.RouteTableDef) -> None:
        run = RUNS_PATH + "/{id}"
        routes.get(RUNS_PATH)(self.list_runs)
        routes.get(run)(self.read_run)
        routes.get(run + "/pictures/{step:[0-9]{1,9}}/{index:[0-9]{1,4}}")(self.read_picture)
        routes.get(run + "/report")(self.read_report)
        routes.post(run + "/wishes")(self.ask)

    async def list_runs(self, _: web.Request) -> web.StreamResponse:
        return answer({"runs": await asyncio.to_thread(self._list)})

    def _list(self) -> list[dict[str, Any]]:
        live = self._runs.newest_first()
        folders = [run.folder for run in live if run.folder is not None]
        return [run.light() for run in live] + self._earlier.light(folders)

    async def read_run(self, request: web.Request) -> web.StreamResponse:
        state = await asyncio.to_thread(self._full, request.match_info["id"])
        return refusal(404, UNKNOWN_RUN) if state is None else answer(state)

    def _full(self, run_id: str) -> dict[str, Any] | None:
        run = self._runs.get(run_id)
        return self._earlier.full(run_id) if run is None else run.full()

    async def read_picture(self, request: web.Request) -> web.StreamResponse:
        step, index = int(request.match_info["step"]), int(request.match_info["index"])
        path = await asyncio.to_thread(self._picture, request.match_info["id"], step, index)
        if path is None:
            return refusal(404, "there is no such picture")
        if request.query.get("small") != "1":
            return web.FileResponse(path, headers=PICTURE_HEADERS)
        try:
            jpeg, changed = await asyncio.to_thread(self._shrink, path)
        except UNREADABLE:
            return refusal(404, "the picture cannot be read")
        response = web.Response(body=jpeg, content_type="image/jpeg", headers=PICTURE_HEADERS)
        response.last_modified = changed
        known = request.if_modified_since
        if known is not None and changed < known.timestamp() + 1:  # the header counts whole seconds
            return web.Response(status=304, headers=response.headers)
        return response

    def _picture(self, run_id: str, step: int, index: int) -> Path | None:
        run = self._runs.get(run_id)
        found = self._earlier.picture(run_id, step, index) if run is None else run.picture(step, index)
        return found if found is not None and found.is_file() else None

    def _shrink(self, path: Path) -> tuple[bytes, float]:
        return self._small.jpeg(path), path.stat().st_mtime

    async def read_report(self, request: web.Request) -> web.StreamResponse:
        page = await asyncio.to_thread(self._report, request.match_info["id"])
        if page is None:
            return refusal(404, "this run has no report")
        return web.Response(body=page, content_type="text/html", charset="utf-8", headers=REPORT_HEADERS)

    def _report(self, run_id: str) -> bytes | None:
        run = self._runs.get(run_id)
        path = self._earlier.report(run_id) if run is None else run.report()
        try:
            return None if path is None else path.read_bytes()
        except OSError:
            return None

    async def ask(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await json_body(request)
        except BadRequestError as error:
            return refusal(error.status, str(error))
        wish = body.get("wish")
        if body.keys() != {"wish"} or not isinstance(wish, str) or wish not in WISHES:
            return refusal(400, f"'wish' must be one of {', '.join(WISHES)}")
        run = self._runs.get(request.match_info["id"])
        if run is None:
            return refusal(404, UNKNOWN_RUN)
        why_not = run.ask(wish)
        return refusal(409, f"this cannot be asked of the run: {why_not}") if why_not else answer(run.light())


def register(routes: web.RouteTableDef) -> None:
    """Add the routes to the server's table."""
    from ..comfy_bridge.folders import lora_choices, run_folder
    from .live_runs import RUNS

    RunRoutes(RUNS, EarlierRuns(run_folder, lora_choices)).register(routes)
