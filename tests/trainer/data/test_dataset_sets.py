"""Sets made from others: split for validation, joined with weights, with class images."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.batches import BatchPlan
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.dataset_sets import join_datasets, with_class_images, with_masks, with_repeats
from sdxl_trainer.trainer.errors import InputError


def fill(root, count, size=(128, 128), first=0):
    root.mkdir(parents=True, exist_ok=True)
    for index in range(first, first + count):
        values = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(values).save(root / f"{index:02}.png")
    return root


def load(root, **settings):
    return load_dataset(root, DatasetConfig(**{"resolution": 128, **settings}))


def names(dataset):
    return [picture.name for picture in dataset.pictures]


def variants_name_their_picture(dataset):
    return all(v.picture == i for i, variants in enumerate(dataset.variants) for v in variants)


class TestSplit:
    def test_every_picture_is_in_one_of_the_parts(self, tmp_path):
        dataset = load(fill(tmp_path, 10), flip=True, repeats=3)
        training, held = dataset.split(0.2)
        assert len(held.pictures) == 2
        assert sorted(names(training) + names(held)) == names(dataset)
        assert names(training) == sorted(names(training))
        assert variants_name_their_picture(training) and variants_name_their_picture(held)
        assert {p.repeats for p in training.pictures} == {3} and {p.repeats for p in held.pictures} == {1}
        assert [len(v) for v in held.variants] == [1, 1]
        # each variant still belongs to the picture it was made for
        for part in (training, held):
            for picture, variants in zip(part.pictures, part.variants, strict=True):
                whole = dataset.crop_picture(dataset.variants[names(dataset).index(picture.name)][0])
                assert np.array_equal(part.crop_picture(variants[0]), whole)

    def test_who_is_held_out_hangs_on_the_bytes_alone(self, tmp_path):
        dataset = load(fill(tmp_path / "one", 12))
        (tmp_path / "two").mkdir()
        for index, path in enumerate(sorted((tmp_path / "one").iterdir(), reverse=True)):
            shutil.copy(path, tmp_path / "two" / f"{index:02}.png")
        held = [load(tmp_path / name).split(0.25)[1] for name in ("one", "two")]
        assert {p.digest for p in held[0].pictures} == {p.digest for p in held[1].pictures}
        assert names(dataset.split(0.25)[1]) == names(held[0])

    def test_a_larger_share_holds_out_the_same_and_more(self, tmp_path):
        dataset = load(fill(tmp_path, 20))
        few, many = (set(names(dataset.split(share)[1])) for share in (0.1, 0.4))
        assert len(few) == 2 and len(many) == 8 and few < many

    @pytest.mark.parametrize(
        ("count", "share", "held"), [(2, 0.01, 1), (2, 0.99, 1), (5, 0.5, 2), (3, 1.0, 2)]
    )
    def test_at_least_one_picture_is_on_each_side(self, tmp_path, count, share, held):
        training, out = load(fill(tmp_path, count)).split(share)
        assert (len(out.pictures), len(training.pictures)) == (held, count - held)

    def test_equal_files_are_never_on_both_sides(self, tmp_path):
        fill(tmp_path, 4)
        for index in range(4):
            shutil.copy(tmp_path / f"{index:02}.png", tmp_path / f"copy{index}.png")
        for share in (0.1, 0.3, 0.5):
            training, held = load(tmp_path).split(share)
            assert not {p.digest for p in training.pictures} & {p.digest for p in held.pictures}
            assert len(training.pictures) + len(held.pictures) == 8

    def test_one_picture_cannot_be_split(self, tmp_path):
        fill(tmp_path, 1)
        shutil.copy(tmp_path / "00.png", tmp_path / "copy.png")
        with pytest.raises(InputError, match=r"share is 0\.2, but the dataset has only 1 different picture"):
            load(tmp_path).split(0.2)

    def test_fingerprints_and_notes_tell_the_parts_apart(self, tmp_path):
        dataset = load(fill(tmp_path, 4))
        parts = [part for share in (0.25, 0.5) for part in dataset.split(share)]
        assert len({dataset.fingerprint, *(part.fingerprint for part in parts)}) == 5
        assert dataset.split(0.5)[0].fingerprint == parts[2].fingerprint
        assert any("1 of 4 pictures are held out for validation" in str(n) for n in parts[0].notes)

    def test_class_images_stay_with_the_training_part(self, tmp_path):
        whole = with_class_images(load(fill(tmp_path / "a", 4)), load(fill(tmp_path / "b", 3, first=50)))
        training, held = whole.split(0.25)
        assert training.class_set is whole.class_set and held.class_set is None

    def test_masks_weights_and_trigger_words_go_along(self, tmp_path):
        joined = join_datasets(
            [(load(fill(tmp_path / "a", 2)), 0.5), (load(fill(tmp_path / "b", 2, first=9)), 2)]
        )
        dataset = with_masks(joined, torch.stack([torch.full((8, 8), v) for v in (0.1, 0.2, 0.3, 0.4)]))
        expected = {p.name: (p.loss_weight, p.given_mask[0, 0]) for p in dataset.pictures}
        for part in dataset.split(0.5):
            assert {
                p.name: (p.loss_weight, p.given_mask[0, 0]) for p in part.pictures
            }.items() <= expected.items()
            assert part.trigger_words == dataset.trigger_words


class TestJoin:
    def test_sets_of_other_settings_keep_their_own_sizes_captions_and_repeats(self, tmp_path):
        fill(tmp_path / "cats", 3)
        fill(tmp_path / "dogs", 2, (300, 300), first=10)
        cats = load(tmp_path / "cats", trigger="zorp", repeats=4)
        dogs = load(tmp_path / "dogs", trigger="blik", resolution=256, flip=True, background="#000000")
        joined = join_datasets([(cats, 1.0), (dogs, 0.25)])
        assert names(joined) == ["cats/00.png", "cats/01.png", "cats/02.png", "dogs/10.png", "dogs/11.png"]
        assert variants_name_their_picture(joined)
        assert list(joined.buckets) == [(128, 128), (256, 256)]
        assert [p.repeats for p in joined.pictures] == [4, 4, 4, 1, 1]
        assert [p.loss_weight for p in joined.pictures] == [1, 1, 1, 0.25, 0.25]
        assert [p.captions for p in joined.pictures][2:4] == [("zorp",), ("blik",)]
        assert [p.background for p in joined.pictures][2:4] == ["#ffffff", "#000000"]
        assert joined.trigger_words == "zorp, blik"
        assert joined.config.resolution == 256 and joined.root_name == "cats + dogs"
        assert joined.num_samples == cats.num_samples + dogs.num_samples
        for place, (part, index) in enumerate([(cats, 0), (cats, 1), (cats, 2), (dogs, 0), (dogs, 1)]):
            for ours, theirs in zip(joined.variants[place], part.variants[index], strict=True):
                assert torch.equal(joined.load_pixels(ours), part.load_pixels(theirs))

    def test_a_plus_in_the_name_of_a_folder_makes_it_no_joined_set(self, tmp_path):
        parts = [load(fill(tmp_path / name, 1, first=at)) for at, name in enumerate(("cats + dogs", "hens"))]
        assert names(join_datasets([(part, 1) for part in parts])) == ["cats + dogs/00.png", "hens/01.png"]

    def test_weights_of_nested_joins_multiply_and_names_stay(self, tmp_path):
        parts = [load(fill(tmp_path / name, 1, first=i * 10)) for i, name in enumerate("abc")]
        inner = join_datasets([(parts[0], 0.5), (parts[1], 1)])
        joined = join_datasets([(inner, 0.5), (parts[2], 2)])
        assert names(joined) == ["a/00.png", "b/10.png", "c/20.png"]
        assert [p.loss_weight for p in joined.pictures] == [0.25, 0.5, 2]

    def test_folders_of_one_name_are_told_apart(self, tmp_path):
        parts = [load(fill(tmp_path / where / "img", 1)) for where in "xyz"]
        joined = join_datasets([(part, 1) for part in parts])
        assert names(joined) == ["img/00.png", "img-2/00.png", "img-3/00.png"]
        assert any("1 pictures are in both datasets: img/00.png" in str(note) for note in joined.notes)

    def test_a_set_can_be_joined_with_itself_at_another_size(self, tmp_path):
        fill(tmp_path / "a", 2, (300, 300))
        joined = join_datasets([(load(tmp_path / "a"), 1), (load(tmp_path / "a", resolution=256), 1)])
        again = join_datasets([(joined, 1), (load(tmp_path / "a", resolution=192), 1)])
        assert list(again.buckets) == [(128, 128), (192, 192), (256, 256)]
        assert len(set(names(again))) == 6

    def test_the_fingerprint_covers_parts_weights_and_their_order(self, tmp_path):
        a, b = load(fill(tmp_path / "a", 1)), load(fill(tmp_path / "b", 1, first=5))
        joins = [[(a, 1.0), (b, 1.0)], [(a, 1.0), (b, 0.5)], [(b, 1.0), (a, 1.0)], [(a, 0.5), (b, 1.0)]]
        found = [join_datasets(join).fingerprint for join in joins]
        assert len({a.fingerprint, b.fingerprint, *found}) == 6
        assert join_datasets([(a, 1), (b, 1)]).fingerprint == found[0]  # a whole number is the same weight

    @pytest.mark.parametrize("weight", [0, -1, 101, float("nan")])
    def test_a_weight_out_of_range_is_refused(self, tmp_path, weight):
        a = load(fill(tmp_path / "a", 1))
        with pytest.raises(InputError, match=r"loss_weight_2 is .*must be from 0\.01 to 100"):
            join_datasets([(a, 1), (a, weight)])

    def test_class_sets_are_joined_and_a_shared_one_is_taken_once(self, tmp_path):
        a, b = load(fill(tmp_path / "a", 2)), load(fill(tmp_path / "b", 2, first=5))
        one, two = load(fill(tmp_path / "c", 2, first=50)), load(fill(tmp_path / "d", 3, first=60))
        shared = join_datasets([(with_class_images(a, one), 1), (with_class_images(b, one), 1)])
        assert names(shared.class_set) == ["50.png", "51.png"]
        both = join_datasets([(with_class_images(a, one), 0.5), (with_class_images(b, two), 1)])
        assert len(both.class_set.pictures) == 5
        assert {p.loss_weight for p in both.class_set.pictures} == {1}
        assert join_datasets([(a, 1), (with_class_images(b, two), 1)]).class_set is not None
        assert join_datasets([(a, 1), (b, 1)]).class_set is None

    def test_an_epoch_of_a_joined_set_holds_every_sample_once(self, tmp_path):
        a = load(fill(tmp_path / "a", 3), repeats=2)
        b = load(fill(tmp_path / "b", 2, (256, 256), first=10), resolution=256)
        joined = join_datasets([(a, 1), (b, 1)])
        plan = BatchPlan(joined, 2, seed=1)
        drawn = [draw.picture for i in range(plan.num_batches) for draw in plan.batch(i)]
        assert sorted(drawn) == [0, 0, 1, 1, 2, 2, 3, 4]
        for index in range(plan.num_batches):
            assert len({draw.variant.bucket for draw in plan.batch(index)}) == 1


class TestClassImages:
    def test_class_images_keep_sizes_captions_and_repeats_of_their_own(self, tmp_path):
        own = load(fill(tmp_path / "a", 3), trigger="zorp", repeats=5)
        (tmp_path / "reg" / "2_dog").mkdir(parents=True)
        fill(tmp_path / "reg" / "2_dog", 2, (256, 64), first=50)
        kept = load(tmp_path / "reg", prompt="a dog")
        dataset = with_class_images(own, kept)
        assert dataset.class_set == kept  # the notes too: nothing is wrong with them
        assert list(dataset.buckets) == [(128, 128)] and list(dataset.class_set.buckets) == [(256, 64)]
        assert {c for p in dataset.class_set.pictures for c in p.captions} == {"dog"}
        assert [p.repeats for p in dataset.class_set.pictures] == [2, 2]
        assert dataset.trigger_words == "zorp"
        assert (dataset.pictures, dataset.variants) == (own.pictures, own.variants)
        assert dataset.batches_per_epoch(2) == own.batches_per_epoch(2)

    def test_the_fingerprint_covers_both_sets(self, tmp_path):
        own, kept = load(fill(tmp_path / "a", 2)), load(fill(tmp_path / "b", 2, first=50))
        found = {own.fingerprint, kept.fingerprint, with_class_images(own, kept).fingerprint}
        fill(tmp_path / "b", 1, first=60)
        found.add(with_class_images(own, load(tmp_path / "b")).fingerprint)
        assert len(found) == 4

    @pytest.mark.parametrize(("own", "kept", "odd"), [("zorp", "a dog", 0), ("zorp", "zorp, a dog", 2)])
    def test_class_captions_with_the_trigger_word_are_pointed_out(self, tmp_path, own, kept, odd):
        subject = load(fill(tmp_path / "a", 1), trigger=own)
        class_set = load(fill(tmp_path / "b", 2, first=50), prompt=kept)
        notes = [str(n) for n in with_class_images(subject, class_set).class_set.notes if n.kind == "warning"]
        assert notes == (
            [f"2 class captions hold '{own}', which calls up the subject: call the class without it"]
            if odd
            else []
        )

    def test_subject_and_class_of_the_same_caption_are_pointed_out(self, tmp_path):
        subject = load(fill(tmp_path / "a", 1), prompt="a dog")
        class_set = load(fill(tmp_path / "b", 1, first=50), prompt="a dog")
        (note,) = with_class_images(subject, class_set).class_set.notes
        assert str(note).startswith("1 class captions hold 'a dog'")

    def test_a_picture_in_both_sets_is_refused_by_name(self, tmp_path):
        own = load(fill(tmp_path / "a", 2))
        fill(tmp_path / "b", 2, first=50)
        shutil.copy(tmp_path / "a" / "01.png", tmp_path / "b" / "same.png")
        with pytest.raises(InputError, match=r"1 class images are also pictures .*01\.png = same\.png"):
            with_class_images(own, load(tmp_path / "b"))


def test_repeats_of_a_recipe_make_another_dataset_of_the_same_pictures(tmp_path, tiny_run):
    dataset = tiny_run.tiny_dataset(tmp_path)
    assert with_repeats(dataset, 1) is dataset
    tenfold = with_repeats(dataset, 10)
    assert tenfold.num_samples == 10 * dataset.num_samples
    assert tenfold.steps_per_epoch(2) > dataset.steps_per_epoch(2)
    assert tenfold.fingerprint != dataset.fingerprint
