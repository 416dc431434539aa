"""What several tests of the nodes start from."""

import shutil

import pytest


@pytest.fixture
def input_folder(tmp_path, monkeypatch, example_folder):
    """ComfyUI's input folder with the example pictures as input/zorp."""
    import folder_paths

    folder = tmp_path / "input"
    shutil.copytree(example_folder, folder / "zorp")
    monkeypatch.setattr(folder_paths, "input_directory", str(folder))
    return folder
