"""Routes that answer what widgets come to, before anything runs; they change nothing."""

import asyncio
from typing import Any

from aiohttp import web

from ...trainer.errors import InputError
from .dataset_look import DatasetChoice, DatasetLooks, NoSuchFolderError, SupersededError
from .json_body import BadRequestError, answer, json_body, refusal
from .settings_look import SettingsChoice, settings_look

LONGEST_ASKER = 200


def register(routes: web.RouteTableDef) -> None:
    """Add the two routes, with looks of their own, to the server's table.

    Each takes a JSON object and answers with one; what a user can mend comes as `{"error": sentence}` with
    status 200, as a browser writes every other status into its console.
    """
    looks = DatasetLooks()

    @routes.post("/sdxl_trainer/looks/dataset")
    async def dataset(request: web.Request) -> web.Response:
        return await _answered(request, lambda content: _dataset(looks, content))

    @routes.post("/sdxl_trainer/looks/settings")
    async def settings(request: web.Request) -> web.Response:
        return await _answered(request, lambda content: _settings(looks, content))


async def _answered(request: web.Request, ask: Any) -> web.Response:
    try:
        return answer(await ask(await json_body(request)))
    except BadRequestError as error:
        return refusal(error.status, str(error))
    except NoSuchFolderError as error:
        return answer({"error": str(error), "is_missing": True})
    except InputError as error:
        return answer({"error": str(error)})
    except SupersededError:
        return answer({"error": "a newer request of the same node took the place of this one"})
    except OSError as error:
        # its own text names the place of a file
        return answer({"error": f"a file cannot be read: {error.strerror or type(error).__name__}"})


async def _dataset(looks: DatasetLooks, content: dict[str, Any]) -> dict[str, Any]:
    return await looks.look(DatasetChoice.of(content), _asker(content))


async def _settings(looks: DatasetLooks, content: dict[str, Any]) -> dict[str, Any]:
    """The look; a dataset that cannot be used is told beside it, not instead of it."""
    choice = SettingsChoice.of(content)
    if not choice.datasets:
        return await asyncio.to_thread(settings_look, choice, None)
    try:
        dataset = await looks.dataset(choice.datasets, _asker(content))
    except InputError as error:
        look = await asyncio.to_thread(settings_look, choice, None)
        return {**look, "dataset_error": str(error)}
    return await asyncio.to_thread(settings_look, choice, dataset)


def _asker(content: dict[str, Any]) -> str:
    """Who asks, as the browser names itself and its node."""
    asker = content.get("asker", "")
    if not isinstance(asker, str) or len(asker) > LONGEST_ASKER:
        raise BadRequestError(f"asker must be text of at most {LONGEST_ASKER} characters")
    return asker
