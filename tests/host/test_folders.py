"""Datasets are found under ComfyUI's own folders and those the user registers, and nowhere else."""

import shutil

import pytest


@pytest.fixture
def folders():
    from sdxl_trainer.nodes.comfy_bridge import folders

    return folders


@pytest.fixture
def roots(tmp_path, monkeypatch, example_folder):
    """An input folder and a registered datasets folder, and pictures outside both."""
    import folder_paths

    places = {name: tmp_path / name for name in ("input", "mine", "outside")}
    for place in places.values():
        shutil.copytree(example_folder, place / "cats" / "10_cat")
    monkeypatch.setattr(folder_paths, "input_directory", str(places["input"]))
    registered = {**folder_paths.folder_names_and_paths, "datasets": ([str(places["mine"])], set())}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", registered)
    return places


def test_folders_of_both_roots_are_listed_with_the_folders_above_them(folders, roots):
    (roots["input"] / "empty").mkdir()
    (roots["input"] / ".hidden").mkdir()
    expected = [f"{root}/cats{deeper}" for root in ("datasets", "input") for deeper in ("", "/10_cat")]
    assert folders.dataset_choices() == expected
    assert folders.dataset_folder("datasets/cats") == (roots["mine"] / "cats").resolve()


@pytest.mark.parametrize(
    "name",
    [
        *("input/../outside/cats", "input/..", "input/", "input", "outside/cats", "/etc", "input (input)"),
        *("datasets", "datasets/", "datasets/.", "datasets (outside)", "datasets (..)"),
    ],
)
def test_nothing_outside_the_roots_is_opened(folders, roots, name):
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError) as caught:
        folders.dataset_folder(name)
    assert str(roots["input"].parent) not in str(caught.value)


def test_a_registered_folder_with_pictures_in_it_is_a_choice_itself(folders, roots, example_folder):
    before = folders.dataset_choices()
    for name in ("input", "mine"):  # the input folder never is
        shutil.copy(example_folder / "zorp_01.png", roots[name] / "direct.png")
    assert folders.dataset_choices() == ["datasets (mine)", *before]
    assert folders.dataset_folder("datasets (mine)") == roots["mine"].resolve()
    for name in before:
        assert folders.dataset_folder(name).is_dir()


def test_registered_folders_of_one_name_are_told_apart(folders, roots, monkeypatch, example_folder):
    import folder_paths

    second = roots["outside"] / "mine"
    second.mkdir()
    for place in (roots["mine"], second):
        shutil.copy(example_folder / "zorp_01.png", place / "direct.png")
    places = [str(roots["mine"]), str(second), str(roots["mine"])]
    registered = {**folder_paths.folder_names_and_paths, "datasets": (places, set())}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", registered)
    assert folders.dataset_choices()[:2] == ["datasets (mine 2)", "datasets (mine)"]
    assert folders.dataset_folder("datasets (mine 2)") == second.resolve()


@pytest.mark.parametrize("registered", ["input", "parent of input"])
def test_the_input_folder_is_no_choice_even_where_it_is_registered(
    folders, roots, monkeypatch, example_folder, registered
):
    import folder_paths
    from sdxl_trainer.trainer.errors import InputError

    place = roots["input"] if registered == "input" else roots["input"].parent
    shutil.copy(example_folder / "zorp_01.png", place / "direct.png")
    kept = {**folder_paths.folder_names_and_paths, "datasets": ([str(place)], set())}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kept)
    assert not any(name.startswith("datasets (") for name in folders.dataset_choices())
    with pytest.raises(InputError):
        folders.dataset_folder(f"datasets ({place.name})")


def test_a_link_out_of_the_root_is_neither_listed_nor_opened(folders, roots):
    from sdxl_trainer.trainer.errors import InputError

    (roots["input"] / "link").symlink_to(roots["outside"], target_is_directory=True)
    assert not any("link" in name for name in folders.dataset_choices())
    with pytest.raises(InputError):
        folders.dataset_folder("input/link/cats")


def test_without_pictures_the_menu_says_what_to_do(folders, roots):
    for name in ("input", "mine"):
        shutil.rmtree(roots[name] / "cats")
    assert folders.dataset_choices() == [folders.NO_FOLDER]


def test_the_first_writable_loras_folder_is_taken(folders, tmp_path, monkeypatch):
    import folder_paths

    (tmp_path / "file").write_text("in the way")
    places = [str(tmp_path / "file" / "loras"), str(tmp_path / "new" / "loras")]
    registered = {**folder_paths.folder_names_and_paths, "loras": (places, {".safetensors"})}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", registered)
    assert folders.loras_folder() == tmp_path / "new" / "loras"
    assert (tmp_path / "new" / "loras").is_dir()
