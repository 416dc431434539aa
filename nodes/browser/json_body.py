"""What a browser sends to the pack's routes, and how it is refused."""

import json
from typing import Any

from aiohttp import web

MOST_BYTES = 64 * 1024
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class BadRequestError(Exception):
    """A request that cannot be taken; the message is the sentence for the user."""

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(sentence)
        self.status = status


async def json_body(request: web.Request) -> dict[str, Any]:
    """The JSON object that the request carries.

    Raises:
        BadRequestError: another type of content, which a page of another site could send without asking
            first; more than 64 KiB (413); no JSON object.
    """
    if request.content_type != "application/json":
        raise BadRequestError("the request must be application/json")
    body = await _limited(request)
    try:
        content = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadRequestError("the request holds no JSON that can be read") from None
    if not isinstance(content, dict):
        raise BadRequestError("the request must hold a JSON object")
    return content


async def _limited(request: web.Request) -> bytes:
    body = b""
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > MOST_BYTES:
            raise BadRequestError(f"the request is larger than {MOST_BYTES // 1024} KiB", 413)
    return body


def answer(content: Any, status: int = 200) -> web.Response:
    """JSON that no browser keeps or takes for something else."""
    return web.json_response(content, status=status, headers=HEADERS)


def refusal(status: int, sentence: str) -> web.Response:
    return answer({"error": sentence}, status)
