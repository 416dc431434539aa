"""The routes about runs, over HTTP, without a ComfyUI around them: what they give and what they refuse."""

import asyncio
import io
import json
import os
import threading
import zlib

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image
from sdxl_trainer.trainer.events import RunStart, StepReport

JSON = {"Content-Type": "application/json"}
STEP = {"num_steps": 10, "epoch": 0.5, "grad_norm": 1.0, "learning_rate": 1e-4, "seconds": 2.0}


@pytest.fixture
def runs():
    from sdxl_trainer.nodes.browser.live_runs import LiveRuns

    return LiveRuns(lambda _: None)


@pytest.fixture
def ask(runs, tmp_path):
    """(method, path, body, headers) -> (status, headers, bytes), each on a server of its own."""
    from sdxl_trainer.nodes.browser.earlier_runs import EarlierRuns
    from sdxl_trainer.nodes.browser.run_routes import RunRoutes

    async def one(method, path, body, headers):
        table = web.RouteTableDef()
        RunRoutes(runs, EarlierRuns(lambda: tmp_path, lambda: [])).register(table)
        app = web.Application(client_max_size=10**9)
        app.add_routes(table)
        async with TestClient(TestServer(app)) as client:
            from yarl import URL

            url = URL(str(client.make_url("/")).rstrip("/") + path, encoded=True)
            async with client.session.request(method, url, data=body, headers=headers) as answer:
                return answer.status, answer.headers, await answer.read()

    return lambda method, path, body=None, headers=None: asyncio.run(one(method, path, body, headers))


@pytest.fixture
def run(runs, tmp_path):
    """A run at step 2 of 10 in tmp_path/cat, with two pictures."""
    from sdxl_trainer.nodes.browser.live_run import RunPlace

    folder = tmp_path / "cat"
    (folder / "samples").mkdir(parents=True)
    made = runs.open(RunPlace("5", "workflow"))
    made.begin(
        RunStart(name="cat", folder=folder, step=0, num_steps=10, prompts=["<script>", "b"], size=(640, 320))
    )
    for step in (1, 2):
        made.step(StepReport(step=step, loss=0.5, **STEP))
    pictures = [folder / "samples" / f"step-000002-{n:02d}.png" for n in (0, 1)]
    for path in pictures:
        Image.new("RGB", (640, 320), "red").save(path)
    made.preview(2, pictures)
    return made


def wish(ask, run_id, body, headers=JSON):
    return ask("POST", f"/sdxl_trainer/runs/{run_id}/wishes", body, headers)


def sentence(answer):
    content = json.loads(answer[2])
    assert content.keys() == {"error"}
    return content["error"]


def test_runs_are_listed_newest_first_and_earlier_ones_last(ask, runs, run, tmp_path):
    from sdxl_trainer.nodes.browser.live_run import RunPlace

    for name in ("cat", "dog"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text("{}")
    newest = runs.open(RunPlace("6"))
    status, headers, body = ask("GET", "/sdxl_trainer/runs")
    assert status == 200
    assert headers["X-Content-Type-Options"] == "nosniff"
    listed = json.loads(body)["runs"]
    assert [state["id"] for state in listed] == [newest.id, run.id, "earlier:dog"]
    assert "history" not in listed[0]


def test_only_the_newest_fifty_are_kept(runs, run):
    from sdxl_trainer.nodes.browser.live_run import RunPlace

    opened = [runs.open(RunPlace(str(n))) for n in range(50)]
    assert runs.newest_first() == opened[::-1]
    assert runs.get(run.id) is None
    assert len({one.id for one in opened}) == 50
    assert all(len(one.id) == 16 and int(one.id, 16) >= 0 for one in opened)


def test_a_run_is_read_whole_and_unknown_ones_are_told(ask, run):
    status, _, body = ask("GET", f"/sdxl_trainer/runs/{run.id}")
    state = json.loads(body)
    assert (status, state["step"], state["history"]["step"]) == (200, 2, [1, 2])
    assert state["previews"] == {"prompts": ["<script>", "b"], "steps": [2]}
    for unknown in ("0" * 16, "earlier:none", "x", "%2e%2e", "..%2f..", "earlier:..%2fcat", "earlier:%00"):
        assert "no such run" in sentence(ask("GET", f"/sdxl_trainer/runs/{unknown}"))


def test_a_picture_comes_as_it_is_or_small_and_is_asked_for_anew_each_time(ask, run):
    place = f"/sdxl_trainer/runs/{run.id}/pictures/2/1"
    status, headers, body = ask("GET", place)
    assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "image/png", "no-cache")
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert Image.open(io.BytesIO(body)).size == (640, 320)
    status, small, body = ask("GET", f"{place}?small=1")
    assert (status, small["Content-Type"], small["Cache-Control"]) == (200, "image/jpeg", "no-cache")
    assert Image.open(io.BytesIO(body)).size == (256, 128)
    for path, known in ((place, headers), (f"{place}?small=1", small)):
        since = {"If-Modified-Since": known["Last-Modified"]}
        assert ask("GET", path, headers=since)[0] == 304
        os.utime(run.picture(2, 1), (4_000_000_000, 4_000_000_000))
        assert ask("GET", path, headers=since)[0] == 200
        os.utime(run.picture(2, 1), (1_000_000_000, 1_000_000_000))


@pytest.mark.parametrize(
    "place",
    [
        "3/0", "2/2", "2/-1", "-2/0", "2/1.png", "2/01e0", "a/b", "2/../../cat/samples/x", "..%2f2/0",
        "2%2f1", "%32/%D9%A1", "2/0/", "9999999999/0", "2/99999", "%2e%2e/%2e%2e", "2/0%00", "2/\\..\\0",
    ],
)  # fmt: skip
def test_only_numbers_of_pictures_that_are_known_lead_to_a_picture(ask, run, place):
    status, _, body = ask("GET", f"/sdxl_trainer/runs/{run.id}/pictures/{place}")
    assert status == 404
    assert b"PNG" not in body


def test_a_picture_that_is_gone_or_broken_is_not_there(ask, run):
    run.picture(2, 0).write_text("no picture")
    run.picture(2, 1).unlink()
    place = f"/sdxl_trainer/runs/{run.id}/pictures/2"
    assert "cannot be read" in sentence(ask("GET", f"{place}/0?small=1"))
    assert ask("GET", f"{place}/1")[0] == ask("GET", f"{place}/1?small=1")[0] == 404


def png_of(chunk, content):
    """A PNG of one pixel with one chunk of another content."""
    whole = io.BytesIO()
    Image.new("RGB", (1, 1)).save(whole, "PNG")
    made, rest = whole.getvalue()[:8], whole.getvalue()[8:]
    while rest:
        size = int.from_bytes(rest[:4], "big")
        kind, body = rest[4:8], rest[8 : 8 + size]
        body = content if kind == chunk else body
        made += len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        rest = rest[12 + size :]
    return made


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        png_of(b"IHDR", (60_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"),  # 3.6 billion pixels
        png_of(b"IHDR", b"\x00\x00"),
        png_of(b"IDAT", b"no deflated bytes"),
        b"GIF89a\x01\x00\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x01D\x00;",
    ],
    ids=["empty", "cut off", "bomb", "no header", "no pixels", "a GIF"],
)
def test_a_damaged_picture_is_not_there_and_no_error(ask, run, content):
    run.picture(2, 0).write_bytes(content)
    answer = ask("GET", f"/sdxl_trainer/runs/{run.id}/pictures/2/0?small=1")
    assert (answer[0], "cannot be read" in sentence(answer)) == (404, True)


def test_the_report_may_load_and_run_nothing(ask, run):
    path = f"/sdxl_trainer/runs/{run.id}/report"
    (run.folder / "report.html").write_text("<p>ä<script>x</script>", "utf-8")
    assert ask("GET", path)[0] == 404  # of an earlier end of this run
    run.end("done")
    status, headers, body = ask("GET", path)
    assert (status, body) == (200, "<p>ä<script>x</script>".encode())
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = {part.strip() for part in headers["Content-Security-Policy"].split(";")}
    assert policy == {"default-src 'none'", "img-src data:", "style-src 'unsafe-inline'", "sandbox"}
    assert headers["X-Content-Type-Options"] == "nosniff"
    (run.folder / "report.html").unlink()
    assert ask("GET", path)[0] == 404


def test_a_wish_is_noted_and_answered_with_the_state(ask, run):
    status, _, body = wish(ask, run.id, b'{"wish": "sample"}')
    assert (status, json.loads(body)["wishes"]) == (200, ["sample"])
    refused = wish(ask, run.id, b'{"wish": "sample"}')
    assert (refused[0], "asked for already" in sentence(refused)) == (409, True)
    assert run.next_wish() == "sample"
    run.end("cancelled")
    refused = wish(ask, run.id, b'{"wish": "sample"}')
    assert (refused[0], "has ended" in sentence(refused)) == (409, True)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b'"finish"', b"1", b"{}", b'{"wish": 1}', b'{"wish": null}',
        b'{"wish": "stop"}', b'{"wish": ["finish"]}', b'{"wish": {"finish": 1}}',
        b'{"wish": "finish", "more": 1}', b'{"wish": "\xff"}', b"[" * 60_000,
        b'{"wish": 1' + b"0" * 6000 + b"}", b'{"wish": "__class__"}',
    ],
)  # fmt: skip
def test_what_is_no_wish_is_refused_with_a_sentence(ask, run, body):
    answer = wish(ask, run.id, body)
    assert answer[0] == 400
    assert sentence(answer)
    assert run.next_wish() is None
    assert not run.is_paused()


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json5",
    ],
)
def test_a_form_of_another_site_is_no_wish(ask, run, kind):
    answer = wish(ask, run.id, b'{"wish": "finish"}', {"Content-Type": kind})
    assert answer[0] == 400
    assert "application/json" in sentence(answer)
    assert run.next_wish() is None


def test_too_much_is_not_read(ask, run):
    body = b'{"wish": "finish"' + b" " * 70_000 + b"}"
    answer = wish(ask, run.id, body)
    assert (answer[0], "64 KiB" in sentence(answer)) == (413, True)
    assert run.next_wish() is None


def test_wishes_of_runs_that_are_not_live_are_refused(ask, run, tmp_path):
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "config.json").write_text("{}")
    for unknown in ("0" * 16, "earlier:dog", "..%2f", "x"):
        assert wish(ask, unknown, b'{"wish": "finish"}')[0] == 404


def test_reading_changes_nothing(ask, run):
    before = run.full()
    run_path = f"/sdxl_trainer/runs/{run.id}"
    for method in ("GET", "HEAD"):
        for path in ("", "/pictures/2/0", "/pictures/2/0?small=1", "/report", "/wishes"):
            status, _, body = ask(method, run_path + path)
            assert status in (200, 404, 405)
            assert method == "GET" or body == b""
        ask(method, "/sdxl_trainer/runs")
    for method in ("PUT", "DELETE", "PATCH", "POST"):
        assert ask(method, run_path)[0] == 405
    after = run.full()
    assert {**after, "elapsed": 0} == {**before, "elapsed": 0}


@pytest.mark.parametrize(
    "said",
    [
        "cannot write {0}/cat/x.png",
        "OSError: '{0}/cat' is gone",
        "cannot write '{0}/my cat/x y.png'",
        "{0}/my cat/x.png is gone",
        "file://{0}/cat/x.png",
    ],
)
@pytest.mark.parametrize("deeper", ["", "My Disk/Com fy UI"])
def test_states_carry_no_path(ask, run, tmp_path, said, deeper):
    run.note(said.format(str(tmp_path / deeper)))
    run.checkpoint(2, run.picture(2, 0))
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "config.json").write_text("{}")
    for path in ("", f"/{run.id}", "/earlier:dog", "/unknown"):
        told = ask("GET", f"/sdxl_trainer/runs{path}")[2].decode()
        assert not [part for part in (str(tmp_path), tmp_path.name, "My", "Disk") if part in told]
    event = json.dumps(run.take_event())
    assert not [part for part in (str(tmp_path), tmp_path.name, "My", "Disk") if part in event]


def test_small_pictures_are_kept_within_bounds_and_made_anew_when_the_file_changes(tmp_path):
    from sdxl_trainer.nodes.browser.small_pictures import SmallPictures

    paths = [tmp_path / f"{n}.png" for n in range(6)]
    for path in paths:
        Image.effect_noise((300, 200), 50).save(path)
    size = len(SmallPictures().jpeg(paths[0]))
    small = SmallPictures(most_bytes=3 * size)
    first = small.jpeg(paths[0])
    assert small.jpeg(paths[0]) is first
    Image.new("RGB", (30, 20), "blue").save(paths[0])
    changed = small.jpeg(paths[0])
    assert Image.open(io.BytesIO(changed)).size == (30, 20)
    threads = [threading.Thread(target=small.jpeg, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, small._kept.values())) == small._num_bytes <= 3 * size
