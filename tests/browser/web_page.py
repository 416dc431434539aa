"""A bare page that has nothing but the pack's web folder, to try its modules one by one."""

import mimetypes
from pathlib import Path

WEB = Path(__file__).resolve().parents[2] / "web"
ADDRESS = "http://127.0.0.1:9"  # nobody listens there: every answer comes from `serve_files`
mimetypes.add_type("text/javascript", ".js")


def open_web_page(context, style="body { background: #202020; color: #ddd; }"):
    """A tab of `context` whose modules lie at /panel/..., /looks/... and /vendor/..."""
    tab = context.new_page()
    tab.route(f"{ADDRESS}/**", serve_files)
    tab.goto(f"{ADDRESS}/")
    tab.add_style_tag(content=style)
    return tab


def serve_files(route):
    name = route.request.url.removeprefix(ADDRESS).partition("?")[0].lstrip("/")
    if not name:
        route.fulfill(body="<!DOCTYPE html><title>modules</title><body></body>", content_type="text/html")
        return
    file = (WEB / name).resolve()
    if file.is_relative_to(WEB) and file.is_file():
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        route.fulfill(body=file.read_bytes(), content_type=kind)
    else:
        route.fulfill(status=404, body="")
