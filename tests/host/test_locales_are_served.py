"""What the browser reads of our languages: ComfyUI's own route gives out all of the pack's texts."""

import json

import pytest


@pytest.mark.parametrize("language", ["en", "zh"])
def test_comfyui_gives_out_all_of_it(server, graphs, pack_folder, language):
    own = pack_folder / "locales" / language
    texts = json.loads((own / "main.json").read_text("utf-8"))
    names = json.loads((own / "nodeDefs.json").read_text("utf-8"))
    assert graphs.Client(server).get("/i18n")[language] == {**texts, "nodeDefs": names}
