"""Masks lie on their pixels: through crop, mirror, scaling and rotation, and down to the latents."""

import numpy as np
import pytest
import torch
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.contact_sheet import dataset_sheet
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.dataset_sets import with_masks
from sdxl_trainer.trainer.data.masks import given_masks, latent_mask
from sdxl_trainer.trainer.errors import InputError


def alpha_pattern(width, height):
    """Every pixel's own opacity: no mirrored or shifted cut of it equals another."""
    return np.random.default_rng(5).integers(0, 256, (height, width), dtype=np.uint8)


def draw(path, alpha, **options):
    """A white picture with this opacity."""
    values = np.full((*alpha.shape, 4), 255, dtype=np.uint8)
    values[..., 3] = alpha
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def load(root, **settings):
    return load_dataset(root, DatasetConfig(**{"resolution": 128, "bucket_step": 128, **settings}))


def warnings(dataset):
    return [str(note) for note in dataset.notes if note.kind == "warning"]


def eighths(values):
    """The mean of each 8x8 values, by hand."""
    height, width = values.shape
    return values.reshape(height // 8, 8, width // 8, 8).astype(np.float64).mean(axis=(1, 3)) / 255


def test_an_alpha_mask_is_cut_and_mirrored_as_the_pixels_are(tmp_path):
    alpha = alpha_pattern(300, 128)
    draw(tmp_path / "a.png", alpha)
    dataset = with_masks(load(tmp_path, crop="random", flip=True, background="#000000"), "alpha")
    assert len(dataset.variants[0]) == 8
    for variant in dataset.variants[0]:
        left = variant.crop_left
        expected = alpha[:, left : left + 128]
        expected = expected[:, ::-1] if variant.flipped else expected
        assert np.array_equal(np.asarray(dataset.crop_mask(variant)), expected)
        # white over black shows the opacity itself, so the two must be equal pixel by pixel
        assert np.array_equal(np.asarray(dataset.crop_picture(variant))[..., 0], expected)
        loaded = dataset.load_mask(variant)
        assert torch.equal(dataset.load_masks(0)[dataset.variants[0].index(variant)], loaded)
        assert loaded.shape == (1, 16, 16) and loaded.dtype == torch.float32
        assert np.abs(loaded[0].numpy() - eighths(expected)).max() < 1e-6


def test_a_scaled_mask_is_the_mean_of_what_each_latent_stands_for(tmp_path):
    alpha = alpha_pattern(256, 256)
    draw(tmp_path / "a.png", alpha)
    dataset = with_masks(load(tmp_path), "alpha")
    (variant,) = dataset.variants[0]
    assert variant.scaled == (128, 128)
    by_hand = alpha.reshape(16, 16, 16, 16).astype(np.float64).mean(axis=(1, 3)) / 255
    # 8-bit on the way: Pillow rounds after the rows and after the columns
    assert np.abs(dataset.load_mask(variant)[0].numpy() - by_hand).max() < 1 / 255


def test_the_mask_of_a_turned_picture_is_turned_with_it(tmp_path):
    alpha = alpha_pattern(128, 128)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    draw(tmp_path / "a.png", alpha, exif=exif)
    dataset = with_masks(load(tmp_path, background="#000000"), "alpha")
    (variant,) = dataset.variants[0]
    shown = np.asarray(dataset.crop_mask(variant))
    assert np.array_equal(shown, np.rot90(alpha, -1))
    assert np.array_equal(np.asarray(dataset.crop_picture(variant))[..., 0], shown)


def test_area_resizing_equals_kohyas():
    # sd-scripts, apply_masked_loss: torch.nn.functional.interpolate(mask, size=latents, mode="area")
    values = alpha_pattern(64, 96)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(values).float()[None, None] / 255, size=(12, 8), mode="area"
    )
    assert torch.allclose(latent_mask(Image.fromarray(values)), theirs[0], atol=1e-6)


def test_given_masks_are_stretched_over_the_whole_picture_and_follow_it(tmp_path):
    draw(tmp_path / "a.png", np.full((128, 256), 255, dtype=np.uint8))
    mask = torch.zeros(1, 64, 128)
    mask[0, :, :32] = 1  # the left quarter
    dataset = with_masks(load(tmp_path, crop="random", flip=True), mask)
    assert not any("stretched" in w for w in warnings(dataset))
    for variant in dataset.variants[0]:
        columns = np.asarray(dataset.crop_mask(variant))[5]
        inside = max(0, 64 - variant.crop_left)
        expected = np.arange(128) < inside
        assert np.array_equal(columns == 255, expected[::-1] if variant.flipped else expected)


def test_masks_stand_in_the_order_of_the_names(tmp_path):
    for name in ("b.png", "a.png", "c.png"):
        draw(tmp_path / name, np.full((128, 128), 255, dtype=np.uint8))
    masks = torch.stack([torch.full((8, 8), value) for value in (0.2, 0.4, 0.6)])
    dataset = with_masks(load(tmp_path), masks)
    means = [float(dataset.load_mask(variants[0]).mean()) for variants in dataset.variants]
    assert [p.name for p in dataset.pictures] == ["a.png", "b.png", "c.png"]
    assert means == pytest.approx([0.2, 0.4, 0.6], abs=1e-3)
    assert all(p.has_mask for p in dataset.pictures)


@pytest.fixture
def folder(tmp_path):
    """One picture half transparent, one fully, one opaque, one without alpha."""
    half = np.full((128, 128), 255, dtype=np.uint8)
    half[:64] = 0
    draw(tmp_path / "half.png", half)
    draw(tmp_path / "nothing.png", np.zeros((128, 128), dtype=np.uint8))
    draw(tmp_path / "opaque.png", np.full((128, 128), 255, dtype=np.uint8))
    Image.new("RGB", (128, 128), "red").save(tmp_path / "plain.jpg")
    return tmp_path


def test_a_picture_without_alpha_counts_in_full_and_is_counted(folder):
    dataset = with_masks(load(folder), "alpha")
    assert [p.has_mask for p in dataset.pictures] == [True, True, True, False]
    assert dataset.load_mask(dataset.variants[3][0]) is None
    assert dataset.has_masks and not load(folder).has_masks
    assert any(str(n) == "1 of 4 pictures have no alpha channel and count in full" for n in dataset.notes)
    assert any("let in 50% of the area" in str(n) for n in dataset.notes)


def test_a_mask_that_leaves_nothing_in_is_named(folder):
    (warning,) = [w for w in warnings(with_masks(load(folder), "alpha")) if "mask" in w]
    assert warning.startswith("nothing.png has a mask that leaves nothing in")


def test_a_mask_that_is_empty_in_some_crops_is_named(tmp_path):
    alpha = np.zeros((128, 400), dtype=np.uint8)
    alpha[:, :150] = 255
    draw(tmp_path / "a.png", alpha)
    assert any(
        "nothing in some of its crops" in w
        for w in warnings(with_masks(load(tmp_path, crop="random"), "alpha"))
    )


def test_without_any_alpha_the_dataset_says_that_masks_change_nothing(tmp_path):
    Image.new("RGB", (128, 128), "red").save(tmp_path / "plain.png")
    dataset = with_masks(load(tmp_path), "alpha")
    assert warnings(dataset)[-1] == "1 of 1 pictures have no alpha channel and count in full"


def test_a_mask_of_another_shape_is_pointed_out(tmp_path):
    draw(tmp_path / "a.png", np.full((128, 256), 255, dtype=np.uint8))
    assert (
        warnings(with_masks(load(tmp_path), torch.ones(1, 64, 64)))[-1]
        == "a.png is 256x128, its mask 64x64: the mask was stretched"
    )


def test_new_masks_replace_the_old_ones_and_change_the_fingerprint(folder):
    plain = load(folder)
    by_alpha = with_masks(plain, "alpha")
    one, other = (with_masks(by_alpha, torch.full((8, 8), value)) for value in (0.5, 0.6))
    again = with_masks(by_alpha, torch.full((1, 8, 8), 0.5))
    assert all(p.given_mask is not None for p in one.pictures)
    assert with_masks(one, "alpha").pictures[0].given_mask is None
    assert len({d.fingerprint for d in (plain, by_alpha, one, other)}) == 4
    assert one.fingerprint == again.fingerprint


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (torch.ones(3, 8, 8), "holds 3 masks, but the dataset has 4 pictures"),
        (torch.ones(2, 3, 8, 8), r"shape \(2, 3, 8, 8\)"),
        (torch.ones(0, 8, 8), r"shape \(0, 8, 8\)"),
        (torch.ones(8), r"shape \(8,\)"),
        (torch.full((8, 8), 2.0), "values from 2 to 2, but they must be from 0 to 1"),
        (torch.full((8, 8), float("nan")), "values from nan"),
    ],
)
def test_masks_that_do_not_fit_are_refused_with_both_numbers(folder, masks, words):
    with pytest.raises(InputError, match=words):
        with_masks(load(folder), masks)


def test_masks_of_a_graph_become_ordinary_arrays():
    with torch.inference_mode():
        masks = torch.rand(2, 8, 8)
    arrays = given_masks(masks, 2)
    assert arrays[0].dtype == np.uint8 and arrays[0].shape == (8, 8)
    assert np.abs(arrays[1] / 255 - masks[1].numpy()).max() <= 0.5 / 255 + 1e-6


def test_a_picture_that_changed_is_named(folder):
    dataset = with_masks(load(folder), "alpha")
    draw(folder / "half.png", np.full((128, 128), 3, dtype=np.uint8))
    with pytest.raises(InputError, match=r"half.png changed after"):
        dataset.load_mask(dataset.variants[0][0])


def test_the_sheet_shows_what_is_left_out_without_colour(tmp_path):
    values = np.zeros((128, 128, 3), dtype=np.uint8)
    values[..., 0] = 255
    Image.fromarray(values).save(tmp_path / "a.png")
    mask = torch.zeros(128, 128)
    mask[:, 64:] = 1
    plain, masked = (np.asarray(dataset_sheet(d)) for d in (load(tmp_path), with_masks(load(tmp_path), mask)))
    red = [int((s == (255, 0, 0)).all(axis=-1).sum()) for s in (plain, masked)]
    assert abs(red[1] / red[0] - 0.5) < 0.02
    assert np.array_equal(plain.shape, masked.shape)


def test_reading_masks_tells_its_progress(folder):
    heard = []
    with_masks(load(folder), "alpha", lambda done, total: heard.append((done, total)))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_several_masks_of_their_own_sizes_are_taken_one_by_one():
    arrays = given_masks([torch.zeros(2, 8, 8), torch.ones(4, 6), torch.ones(1, 1, 3, 3)], 4)
    assert [array.shape for array in arrays] == [(8, 8), (8, 8), (4, 6), (3, 3)]
    assert [int(array.max()) for array in arrays] == [0, 0, 255, 255]
    with pytest.raises(InputError, match="holds 3 masks, but the dataset has 2 pictures"):
        given_masks([torch.zeros(2, 8, 8), torch.ones(4, 6)], 2)
