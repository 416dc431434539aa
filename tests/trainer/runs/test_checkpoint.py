import pytest
import torch
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.runs.checkpoint import (
    TrainState,
    list_states,
    load_newest_state,
    load_state,
    save_state,
    state_path,
    step_of,
)


def a_state(step, fingerprint="mine"):
    tensors = {"lora/a": torch.full((3, 2), float(step)), "optimizer/0.step": torch.tensor(float(step))}
    return TrainState(step, fingerprint, tensors, {"losses": [0.1, step / 3], "num_skipped": 2})


def test_state_comes_back_bit_for_bit(tmp_path):
    save_state(tmp_path / "state", a_state(500))
    loaded, notes = load_newest_state(tmp_path / "state", "mine")
    assert (loaded.step, loaded.fingerprint, notes) == (500, "mine", [])
    assert loaded.figures == a_state(500).figures
    assert all(torch.equal(loaded.tensors[k], v) for k, v in a_state(500).tensors.items())
    assert loaded.tensors.keys() == a_state(500).tensors.keys()


def test_newest_by_number_wins_and_two_are_kept(tmp_path):
    for step in (90, 1000, 1_000_000):
        save_state(tmp_path, a_state(step))
    assert [path.name for path in list_states(tmp_path)] == [
        "step-1000000.safetensors",
        "step-001000.safetensors",
    ]
    assert load_newest_state(tmp_path, "mine")[0].step == 1_000_000


def cut_off(content):
    return content[: len(content) // 2]


def flip_a_tensor_bit(content):
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def change_a_figure(content):
    return content.replace(b"0.1, ", b"0.2, ")


def empty(content):
    return b""


def absurd_header(content):
    return b"\xff" * 8 + content[8:]


@pytest.mark.parametrize("damage", [cut_off, flip_a_tensor_bit, change_a_figure, empty, absurd_header])
def test_damaged_newest_falls_back_to_the_one_before(tmp_path, damage):
    save_state(tmp_path, a_state(10))
    path = save_state(tmp_path, a_state(20))
    content = path.read_bytes()
    path.write_bytes(damage(content))
    assert path.read_bytes() != content
    loaded, notes = load_newest_state(tmp_path, "mine")
    assert loaded.step == 10
    assert notes[0].startswith("step-000020.safetensors is damaged")


def test_state_of_other_settings_is_not_taken(tmp_path):
    save_state(tmp_path, a_state(10))
    save_state(tmp_path, a_state(20, "theirs"))
    loaded, notes = load_newest_state(tmp_path, "mine")
    assert loaded.step == 10
    assert "belongs to other settings" in notes[0]
    assert load_newest_state(tmp_path, "nobody's")[0] is None


def test_state_of_a_newer_version_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr("sdxl_trainer.trainer.runs.checkpoint.FORMAT", 99)
    save_state(tmp_path, a_state(10))
    monkeypatch.undo()
    with pytest.raises(InputError, match="newer version"):
        load_newest_state(tmp_path, "mine")


def test_no_folder_means_no_state(tmp_path):
    assert load_newest_state(tmp_path / "none", "mine") == (None, [])


def test_only_safetensors_files_are_read(tmp_path):
    for name in ("step-000010.pt", "step-000010.ckpt", "step-x.safetensors"):
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert load_newest_state(tmp_path, "mine") == (None, [])


def test_failed_write_leaves_the_older_states_and_no_new_name(tmp_path, monkeypatch):
    save_state(tmp_path, a_state(10))
    before = state_path(tmp_path, 10).read_bytes()

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        save_state(tmp_path, a_state(20))
    monkeypatch.undo()
    assert state_path(tmp_path, 10).read_bytes() == before
    assert load_newest_state(tmp_path, "mine")[0].step == 10
    assert [p.name for p in tmp_path.iterdir()] == ["step-000010.safetensors"]


def test_spared_states_stay_beside_the_newest_two_and_later_ones_go(tmp_path):
    for step in (10, 20, 30, 40):
        save_state(tmp_path, a_state(step), spared={10})
    assert [step_of(path) for path in list_states(tmp_path)] == [40, 30, 10]
    save_state(tmp_path, a_state(35), spared={10})
    assert [step_of(path) for path in list_states(tmp_path)] == [35, 30, 10]
    save_state(tmp_path, a_state(36))
    assert [step_of(path) for path in list_states(tmp_path)] == [36, 35]


class TestOneStep:
    def test_it_is_that_of_the_step(self, tmp_path):
        for step in (10, 20):
            save_state(tmp_path, a_state(step))
        assert load_state(tmp_path, 10, "mine").figures == a_state(10).figures

    def test_where_there_is_none_those_there_are_are_named(self, tmp_path):
        folder = tmp_path / "cat" / "state"
        for step in (10, 20):
            save_state(folder, a_state(step))
        with pytest.raises(InputError, match=r"is 15, but there is no state of step 15 in 'cat': .* 10, 20;"):
            load_state(folder, 15, "mine")
        with pytest.raises(InputError, match="there are none at all"):
            load_state(tmp_path / "dog" / "state", 15, "mine")

    def test_a_damaged_one_is_not_replaced_by_another(self, tmp_path):
        save_state(tmp_path, a_state(10))
        path = save_state(tmp_path, a_state(20))
        path.write_bytes(cut_off(path.read_bytes()))
        with pytest.raises(InputError, match=r"step-000020\.safetensors is damaged"):
            load_state(tmp_path, 20, "mine")

    def test_one_of_other_settings_is_refused(self, tmp_path):
        save_state(tmp_path, a_state(10, "theirs"))
        with pytest.raises(InputError, match="belongs to other settings"):
            load_state(tmp_path, 10, "mine")
