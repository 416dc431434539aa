"""Runs that find what earlier runs encoded: the same LoRA, less work, and never a stale value."""

import contextlib
import os
import signal
from collections import Counter
from dataclasses import replace

import pytest
import torch
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.augmented_dataset import with_augmentation
from sdxl_trainer.trainer.data.given_pictures import given_dataset
from sdxl_trainer.trainer.errors import CancelledError
from sdxl_trainer.trainer.settings.augment_config import AugmentConfig

TO_ENCODE = (10, 6)
"""Pictures seen in two ways each, and captions with the empty one."""


@pytest.fixture
def run(tiny_run, tmp_path):
    """Train in a folder of its own, with one cache for all; (LoRA's bytes, what was encoded, report)."""

    def start(folder, listener=None, model=None, cache=tmp_path / "cache", pictures=tmp_path, **values):
        chosen = {key: values.pop(key) for key in ("flip", "crop", "resolution") if key in values}
        dataset = values.pop("dataset", None) or tiny_run.tiny_dataset(pictures, **{"flip": True, **chosen})
        job = replace(tiny_run.tiny_job(tmp_path / folder, dataset, **values), cache_folder=cache)
        model = model or tiny_run.TinyModel()
        result = tiny_run.train(job, model, listener or tiny_run.StopAfter())
        encoded = (model.encoded_pictures, len(model.encoded_captions))
        return result.lora_path.read_bytes(), encoded, result.report

    return start


def files_of(cache):
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_a_second_run_encodes_nothing_and_gives_the_same_lora(run, tiny_run, tmp_path):
    values = {"validation": {"validation_share": 0.2}}
    without = run("a", cache=None, **values)
    cold = run("b", **values)
    listener = tiny_run.StopAfter()
    warm = run("c", listener, **values)
    assert without[0] == cold[0] == warm[0]
    assert without[1] == (9, 7)  # the empty caption of either part
    assert cold[1] == (9, 6)
    assert warm[1] == (0, 0)
    assert "read from the cache: 9 of 9 latents, 6 of 6 captions" in warm[2]
    assert "cache" not in cold[2] + without[2]
    assert ("encoding pictures", 8, 8) in listener.phases


def test_switched_off_nothing_is_written_or_read(run, tmp_path):
    off = {"run": {"cache_encoded": False}}
    before = run("a", **off)
    assert not (tmp_path / "cache").exists()
    assert run("b")[1] == run("c", **off)[1] == before[1] == TO_ENCODE
    kept = [content[8 + int.from_bytes(content[:8], "little") :] for content in (before[0], run("d")[0])]
    assert kept[0] == kept[1]  # the header tells the setting
    # and it is no part of what makes a run the same
    assert run("a")[2].count("nothing was trained") == 1


def test_a_changed_caption_or_picture_is_encoded_alone(run, tiny_run, tmp_path):
    run("a")
    (tmp_path / "pictures" / "1.txt").write_text("a new caption", "utf-8")
    assert run("b")[1] == (0, 1)
    tiny_run.draw_pictures(tmp_path / "other", 1, seed=8)
    (tmp_path / "other" / "0.png").replace(tmp_path / "pictures" / "2.png")
    assert run("c")[1] == (2, 0)


@pytest.mark.parametrize(
    ("changes", "encoded"),
    [
        ({"flip": False}, (0, 0)),
        ({"crop": "random"}, (16, 0)),
        ({"resolution": 96}, (4, 0)),  # the small pictures are not enlarged
        ({"vae_fingerprint": "another VAE"}, (10, 0)),
        ({"text_fingerprint": "another CLIP"}, (0, 6)),
        ({"vae_fingerprint": ""}, (10, 0)),
        ({"text_fingerprint": ""}, (0, 6)),
        ({"steps": 3, "seed": 5, "lora": {"rank": 3}}, (0, 0)),
        ({"text_encoder": {"train_text_encoder": "both"}}, (0, 0)),
    ],
)
def test_only_what_a_change_concerns_is_encoded_anew(run, tiny_run, changes, encoded):
    run("a")
    model = tiny_run.TinyModel()
    for name in ("vae_fingerprint", "text_fingerprint"):
        setattr(model, name, changes.pop(name, getattr(model, name)))
    assert run("b", model=model, **changes)[1] == encoded


def test_augmented_pictures_are_kept_by_what_was_done_to_them(run, tiny_run, tmp_path):
    plain = tiny_run.tiny_dataset(tmp_path)

    def jittered(seed):
        config = AugmentConfig(variants_per_picture=3, crop_jitter=0.2, seed=seed)
        return with_augmentation(plain, config)

    run("a", dataset=plain)
    assert run("b", dataset=jittered(1))[1] == (10, 0)  # the first look is the picture as it is
    assert run("c", dataset=jittered(1))[1] == (0, 0)
    assert run("d", dataset=jittered(2))[1] == (10, 0)


def test_pictures_of_the_graph_are_kept_by_their_pixels(run, tmp_path):
    def given(level):
        pixels = torch.rand(3, 64, 64, 3, generator=torch.Generator().manual_seed(5))
        pixels[0, 0, 0] = level
        return given_dataset(list(pixels), ["a cat"], DatasetConfig(resolution=64))

    first = run("a", dataset=given(0.0))
    assert first[1] == (3, 2)
    again = run("b", dataset=given(0.0))
    assert again[1] == (0, 0) and again[0] == first[0]
    assert run("c", dataset=given(1.0))[1] == (1, 0)


def test_text_that_learns_is_not_kept(run, tmp_path):
    run("a", text_encoder={"train_text_encoder": "both"})
    assert len(files_of(tmp_path / "cache")) == 10


def test_damaged_files_are_encoded_again_and_the_lora_is_the_same(run, tmp_path):
    cold = run("a")
    paths = files_of(tmp_path / "cache")
    assert len(paths) == sum(TO_ENCODE)
    whole = [path.read_bytes() for path in paths]
    for number, path in enumerate(paths):
        path.write_bytes(whole[number][: 40 * number] if number % 2 else whole[number - 2])
    again = run("b")
    assert again[0] == cold[0]
    assert again[1] == TO_ENCODE
    assert [path.read_bytes() for path in paths] == whole


@contextlib.contextmanager
def files_no_larger_than(num_bytes):
    resource = pytest.importorskip("resource", reason="limits on file sizes are a matter of Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_costs_the_cache_alone(run, tiny_run, tmp_path):
    class FullWhileEncoding(tiny_run.StopAfter):
        notes = ()

        def phase(self, name, done, total):
            limit = limits.enter_context if done == 3 and name == "encoding pictures" else None
            if limit:
                limit(files_no_larger_than(300))
            if name == "encoding captions" and done == total:
                limits.close()

        def note(self, text):
            self.notes = (*self.notes, text)

    limits, listener = contextlib.ExitStack(), FullWhileEncoding()
    cold = run("a", listener)
    (note,) = listener.notes
    assert "cache of latents and captions cannot be written (File too large)" in note
    assert note in cold[2]
    assert len(files_of(tmp_path / "cache")) == 3
    assert run("b")[0] == cold[0] == run("c", cache=None)[0]


def test_cancelled_while_encoding_what_was_encoded_is_kept(run, tiny_run, tmp_path):
    class Stopping(tiny_run.StopAfter):
        def should_stop(self):
            return ("encoding captions", 2, 6) in self.phases

    with pytest.raises(CancelledError):
        run("a", Stopping())
    assert len(files_of(tmp_path / "cache")) == 12
    assert run("a")[1] == (0, 4)


def test_a_run_that_goes_on_with_a_cache_ends_as_one_that_never_stopped(run, tiny_run, tmp_path):
    whole = run("a", cache=None)
    with pytest.raises(CancelledError):
        run("b", tiny_run.StopAfter(3))
    stopped = run("b")
    assert stopped[0] == whole[0] and stopped[1] == (0, 0)
    with pytest.raises(CancelledError):
        run("c", tiny_run.StopAfter(3), cache=None)
    assert run("c")[0] == whole[0]


def test_two_runs_at_once_share_the_cache(run, tiny_run, tmp_path):
    """The second starts when the first is half through its pictures, and encodes all that is left."""

    class Second(tiny_run.StopAfter):
        inner = None

        def phase(self, name, done, total):
            if (name, done) == ("encoding pictures", 5):
                self.inner = run("b")

    listener = Second()
    outer = run("a", listener)
    assert outer[0] == listener.inner[0]
    assert listener.inner[1] == (5, 6)
    assert outer[1] == (10, 0)


def test_the_users_folders_stay_as_they_were(run, tmp_path):
    run("a")
    pictures = tmp_path / "pictures"
    assert Counter(path.suffix for path in pictures.iterdir()) == {".png": 5, ".txt": 5}
    assert {path.name for path in tmp_path.iterdir()} == {"a", "cache", "pictures"}
    assert not [path for path in (tmp_path / "a").rglob("*") if os.path.samefile(path, tmp_path / "cache")]
