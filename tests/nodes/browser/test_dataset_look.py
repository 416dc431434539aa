"""A look at a dataset is what LoadDataset would give, costs nobody else time, and leaves no trace."""

import asyncio
import base64
import io
import shutil

import pytest
from PIL import Image


@pytest.fixture
def looks():
    from sdxl_trainer.nodes.browser.dataset_look import DatasetLooks

    return DatasetLooks()


@pytest.fixture
def chosen(input_folder):
    """A function that makes the choice of a request."""
    from sdxl_trainer.nodes.browser.dataset_look import DatasetChoice

    return lambda folder="input/zorp", **fields: DatasetChoice.of({"folder": folder, "fields": fields})


def picture_of(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_look_says_what_the_node_says(looks, chosen):
    from sdxl_trainer.nodes.dataset import LoadDataset

    fields = {"repeats": 2, "trigger": "zorp", "resolution": 256}
    look = asyncio.run(looks.look(chosen(**fields)))
    _, _, report, count = LoadDataset.execute("input/zorp", **fields).args
    assert (look["count"], look["report"]) == (count, report)
    assert look["samples"] == look["steps"] == 2 * count
    assert look["repeats"] == [[count, 2]]
    assert sum(number for _, _, number in look["buckets"]) == 2 * count
    expected = f"{count} pictures x 2 repeats = {2 * count} samples an epoch; at batch 1: {2 * count} steps"
    assert look["summary"].startswith(expected)
    assert picture_of(look["sheet"]).width > 200


def test_a_look_leaves_no_trace(looks, chosen, input_folder):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in input_folder.rglob("*")}

    before = state()
    asyncio.run(looks.look(chosen(trigger="new word")))
    assert state() == before


def test_what_was_left_out_and_what_to_check_is_counted(looks, chosen, input_folder):
    (input_folder / "zorp" / "broken.png").write_bytes(b"no picture")
    look = asyncio.run(looks.look(chosen()))
    assert look["left_out"] == 1
    assert "broken.png" in look["report"]


def test_the_same_look_is_kept_until_the_folder_changes(looks, chosen, input_folder):
    first, second = (asyncio.run(looks.look(chosen())) for _ in range(2))
    assert second is first
    (input_folder / "zorp" / "zorp_01.txt").write_text("a caption of another kind", "utf-8")
    third = asyncio.run(looks.look(chosen()))
    assert third is not first
    assert third["sheet"] != first["sheet"]


def test_only_a_few_looks_are_kept(looks, chosen):
    from sdxl_trainer.nodes.browser.dataset_look import MAX_KEPT

    first = asyncio.run(looks.look(chosen()))
    for repeats in range(2, MAX_KEPT + 2):
        asyncio.run(looks.dataset([chosen(repeats=repeats)]))
    assert asyncio.run(looks.look(chosen())) is not first


def test_a_newer_request_of_the_same_node_takes_the_place_of_older_ones(looks, chosen):
    from sdxl_trainer.nodes.browser.dataset_look import SupersededError

    async def ask():
        asked = [looks.look(chosen(repeats=number), "tab node 3") for number in range(1, 6)]
        other = looks.look(chosen(repeats=9), "tab node 4")
        return await asyncio.gather(*asked, other, return_exceptions=True)

    *older, newest, other = asyncio.run(ask())
    assert [type(answer) for answer in older] == [SupersededError] * 4
    assert newest["samples"] == 5 * newest["count"]
    assert other["samples"] == 9 * other["count"]


def test_the_server_serves_others_meanwhile(looks, chosen):
    async def ask():
        look, turns = asyncio.ensure_future(looks.look(chosen())), 0
        while not look.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    assert asyncio.run(ask()) > 10


@pytest.mark.parametrize(
    "folder",
    [
        "input/nothing",
        "input/../..",
        "../..",
        "/etc",
        "input",
        "input/",
        "",
        "input/zorp/..",
        "input/.hidden",
    ],
)
def test_a_folder_that_the_menu_does_not_list_is_refused(looks, chosen, input_folder, folder):
    from sdxl_trainer.trainer.errors import InputError

    shutil.copytree(input_folder / "zorp", input_folder / ".hidden")
    with pytest.raises(InputError) as caught:
        asyncio.run(looks.look(chosen(folder)))
    assert str(input_folder.parent) not in str(caught.value)
    assert "press R" in str(caught.value)


def test_a_folder_that_cannot_be_used_is_named_as_in_the_menu(looks, chosen, input_folder):
    from sdxl_trainer.trainer.errors import InputError

    for path in (input_folder / "zorp").glob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match="the dataset 'input/zorp' cannot be used") as caught:
        asyncio.run(looks.look(chosen()))
    assert str(input_folder) not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        None,
        {"folder": 3},
        {"folder": "input/zorp", "fields": []},
        {"folder": "input/zorp", "fields": {"colour": 1}},
        {"folder": "input/zorp", "fields": {"repeats": "2"}},
        {"folder": "input/zorp", "fields": {"repeats": True}},
        {"folder": "input/zorp", "fields": {"repeats": 10**400}},
        {"folder": "input/zorp", "fields": {"flip": 1}},
        {"folder": "input/zorp", "fields": {"crop": None}},
    ],
)
def test_what_no_widget_can_send_is_malformed(content):
    from sdxl_trainer.nodes.browser.dataset_look import DatasetChoice
    from sdxl_trainer.nodes.browser.json_body import BadRequestError

    with pytest.raises(BadRequestError):
        DatasetChoice.of(content)


@pytest.mark.parametrize("fields", [{"resolution": 3}, {"crop": "left"}, {"bucket_step": 7}])
def test_values_that_a_run_refuses_are_refused_in_its_words(fields):
    from sdxl_trainer.nodes.browser.dataset_look import DatasetChoice
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match=next(iter(fields))):
        DatasetChoice.of({"folder": "input/zorp", "fields": fields})


def test_a_sheet_of_noise_is_made_small_enough():
    import numpy as np
    from sdxl_trainer.nodes.browser.dataset_look import MAX_SHEET_BYTES, small_picture

    noise = np.random.default_rng(1).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    uri = small_picture(Image.fromarray(noise))
    assert len(base64.b64decode(uri.partition(",")[2])) <= MAX_SHEET_BYTES
    assert picture_of(uri).width >= 300
