"""ComfyUI's web server, where there is one: its routes, its websockets, the prompt it works on."""

import contextlib
import sys
from collections.abc import Mapping
from typing import Any


def _server() -> Any:
    """None outside a server: whoever runs one has imported it, so nobody imports it here."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def is_there() -> bool:
    return _server() is not None


def routes() -> Any:
    """The table that custom nodes add to before the server starts; None where there is no server."""
    return getattr(_server(), "routes", None)


def prompt_id() -> str:
    """Of the prompt that is being executed; empty where nobody tells."""
    return str(getattr(_server(), "last_prompt_id", None) or "")


def broadcast(event: str, data: Mapping[str, Any]) -> None:
    """Give `data` to all browsers that are connected; from any thread, and without waiting for them."""
    server = _server()
    if server is not None:
        with contextlib.suppress(RuntimeError):  # the server's loop is closed: ComfyUI ends
            server.send_sync(event, data)


def show_text(text: str, node_id: str | None) -> None:
    """Show `text` on a node while it works."""
    server = _server()
    if server is not None and node_id is not None:
        server.send_progress_text(text, node_id)
