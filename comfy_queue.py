"""Queue a workflow file in a running ComfyUI over HTTP and follow it to its end; standard library only.

A saved workflow lists each node's widget values by position; the queue wants them by name. Which
widget stands where, ComfyUI itself says under /object_info.
"""

import base64
import json
import os
import socket
import struct
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Prompt = dict[str, dict[str, Any]]
OnProgress = Callable[[str, int, int], None]
"""(class of the node, done, total); total 0 = the node has just begun."""

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEED_MODES = ("fixed", "increment", "decrement", "randomize")
MUTED, BYPASSED = 2, 4
NOTES = ("Note", "MarkdownNote")
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
PATIENCE_SECONDS = 2.0


class QueueError(Exception):
    """ComfyUI refused the workflow or a node failed; the message holds its words."""


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def to_prompt(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Prompt:
    """A saved workflow in the form that POST /prompt takes.

    Raises:
        QueueError: a node of the workflow that this ComfyUI does not have.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt: Prompt = {}
    for node in workflow["nodes"]:
        kind = node["type"]
        if kind in NOTES or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if kind not in object_info:
            raise QueueError(f"the workflow uses the node {kind}, which this ComfyUI does not have")
        values = _widget_values(object_info[kind], node.get("widgets_values") or [])
        for slot in node.get("inputs", ()):
            if slot.get("link") is not None:
                values[slot["name"]] = sources[slot["link"]]
        prompt[str(node["id"])] = {"class_type": kind, "inputs": values}
    return prompt


def _widget_values(description: Mapping[str, Any], values: Any) -> dict[str, Any]:
    if isinstance(values, dict):
        return dict(values)
    given, remaining = {}, list(values)
    for name, options in _widgets(description):
        if not remaining:
            break
        given[name] = remaining.pop(0)
        # the canvas keeps what happens to a seed after queueing as a widget of its own
        is_seed = options.get("control_after_generate") or name in ("seed", "noise_seed")
        if is_seed and remaining and remaining[0] in SEED_MODES:
            remaining.pop(0)
    return given


def _widgets(description: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for section in ("required", "optional"):
        for name, (kind, *rest) in description["input"].get(section, {}).items():
            options = rest[0] if rest else {}
            if (isinstance(kind, list) or kind in WIDGET_TYPES) and not options.get("forceInput"):
                yield name, options


def run_prompt(
    url: str, prompt: Prompt, on_progress: OnProgress, workflow: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Queue `prompt` and wait for its end.

    Args:
        url: of the server, as in http://127.0.0.1:8188.
        prompt: the graph, in the queue's form.
        on_progress: told of each node and of its progress.
        workflow: the graph in the canvas' form, for the metadata of what is saved.

    Returns:
        What /history keeps of it: "outputs" by node id, "status".

    Raises:
        QueueError: the graph was refused, or a node failed.
    """
    client = uuid.uuid4().hex
    events = Events(url, client)
    try:
        extra = {"extra_pnginfo": {"workflow": workflow}} if workflow else {}
        prompt_id = _queue(url, {"prompt": prompt, "client_id": client, "extra_data": extra})
        for event in events:
            data = event.get("data") or {}
            node = prompt.get(str(data.get("node")), {}).get("class_type")
            if node:
                if event["type"] in ("executing", "progress"):
                    on_progress(node, int(data.get("value", 0)), int(data.get("max", 0)))
                continue
            # silence or a graph's end: only the history says for certain
            record = get_json(f"{url}/history/{prompt_id}").get(prompt_id)
            if record:
                return _succeeded(record)
    finally:
        events.close()
    raise QueueError("ComfyUI closed the connection before the workflow was done")


def _queue(url: str, body: dict[str, Any]) -> str:
    request = urllib.request.Request(
        f"{url}/prompt", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["prompt_id"]
    except urllib.error.HTTPError as refusal:
        raise QueueError(f"ComfyUI refused the workflow: {_refusal(refusal.read())}") from refusal


def _refusal(body: bytes) -> str:
    """The sentences out of ComfyUI's answer to a graph that does not hold."""
    try:
        answer = json.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")[:500]
    problems = [
        f"{node['class_type']}: {problem['message']} {problem.get('details', '')}".strip()
        for node in (answer.get("node_errors") or {}).values()
        for problem in node["errors"]
    ]
    return "; ".join(problems) or json.dumps(answer.get("error"))[:500]


def _succeeded(record: dict[str, Any]) -> dict[str, Any]:
    for kind, detail in record["status"]["messages"]:
        if kind == "execution_error":
            raise QueueError(f"{detail['node_type']}: {detail['exception_message'].strip()}")
        if kind == "execution_interrupted":
            raise QueueError("the workflow was interrupted")
    return record


class Events:
    """What ComfyUI tells over its websocket, as dicts; {"type": "idle"} when it is silent for a while."""

    def __init__(self, url: str, client: str) -> None:
        place = urllib.parse.urlsplit(url)
        self._socket = socket.create_connection((place.hostname, place.port), timeout=30)
        self._received = b""
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /ws?clientId={client} HTTP/1.1\r\nHost: {place.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, self._received = self._received.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise QueueError(f"ComfyUI refused the websocket: {head.decode('latin-1').splitlines()[0]}")
        self._socket.settimeout(PATIENCE_SECONDS)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                opcode, payload = self._frame()
            except TimeoutError:
                yield {"type": "idle"}
                continue
            if opcode == CLOSE:
                return
            if opcode == PING:
                self._send(PONG, payload)
            elif opcode == TEXT:
                yield json.loads(payload)

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> None:
        chunk = self._socket.recv(65536)
        if not chunk:
            raise QueueError("ComfyUI closed the connection: it may have run out of memory")
        self._received += chunk

    def _frame(self) -> tuple[int, bytes]:
        """One frame (RFC 6455 section 5.2); a server sends unmasked ones. Half a frame stays for later."""
        while True:
            frame = _parse_frame(self._received)
            if frame is not None:
                opcode, payload, length = frame
                self._received = self._received[length:]
                return opcode, payload
            self._receive()

    def _send(self, opcode: int, payload: bytes) -> None:
        # a client's frames must be masked; with a mask of zeros the payload stays as it is
        self._socket.sendall(bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload)


def _parse_frame(received: bytes) -> tuple[int, bytes, int] | None:
    """(opcode, payload, bytes used) of the first whole frame, or None when there is none yet."""
    if len(received) < 2:
        return None
    opcode, length, start = received[0] & 0x0F, received[1] & 0x7F, 2
    if length in (126, 127):
        code = "!H" if length == 126 else "!Q"
        start += struct.calcsize(code)
        if len(received) < start:
            return None
        length = struct.unpack(code, received[2:start])[0]
    end = start + length
    return (opcode, received[start:end], end) if len(received) >= end else None
