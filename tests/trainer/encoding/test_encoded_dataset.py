from dataclasses import replace

import pytest
import torch
from PIL import Image
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.batches import BatchPlan
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.dataset_sets import join_datasets, with_class_images, with_masks
from sdxl_trainer.trainer.diffusion.conditioning import Batch
from sdxl_trainer.trainer.encoding.encoded_dataset import Encoding, encode_dataset
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.events import SilentListener
from sdxl_trainer.trainer.runs.run_setup import EncodedPictures


def go_on():
    pass


@pytest.fixture
def encode(tiny_run, tmp_path):
    def run(model=None, check_stop=go_on, listener=None, size_conditioning="inference", **values):
        dataset = tiny_run.tiny_dataset(tmp_path, **values)
        encoding = Encoding(model or tiny_run.TinyModel(), listener or SilentListener(), check_stop)
        encoded = encode_dataset(dataset, encoding, size_conditioning)
        return dataset, encoded

    return run


def test_each_variant_and_each_distinct_caption_is_encoded_once(encode, tiny_run, tmp_path):
    captions = ["a cat", "a cat", "a dog", "a cat", "a dog"]
    tiny_run.draw_pictures(tmp_path / "pictures", 5, captions)
    model = tiny_run.TinyModel()
    dataset, encoded = encode(model, flip=True, repeats=3)
    assert model.encoded_pictures == sum(map(len, dataset.variants)) == 10
    assert sorted(model.encoded_captions) == ["", "a cat", "a dog"]
    assert set(encoded.conditions) == {"", "a cat", "a dog"}


def test_latents_are_those_of_the_drawn_variant(encode, tiny_run):
    dataset, encoded = encode(flip=True)
    model = tiny_run.TinyModel()
    for index in range(8):
        draws = BatchPlan(dataset, 2, seed=1, caption_dropout=0.3).batch(index)
        batch = encoded.batch(draws)
        for place, draw in enumerate(draws):
            own = model.encode_pixels(dataset.load_pixels(draw.variant)[None])[0]
            assert torch.equal(batch.latents[place], own)
            assert torch.equal(batch.pooled[place], encoded.conditions[draw.caption].pooled)
            width, height = draw.variant.bucket
            assert batch.time_ids[place].tolist() == [height, width, 0, 0, height, width]


def test_true_sizes_are_told_when_asked_for(encode):
    dataset, encoded = encode(size_conditioning="true", crop="random")
    variant = dataset.variants[0][0]
    assert encoded.time_ids[0][0].tolist() == list(dataset.true_time_ids(variant))


def test_text_takes_the_denoisers_type_latents_and_sizes_stay_exact(encode):
    encoded = encode()[1].to(torch.device("cpu"), torch.bfloat16)
    assert {c.prompt_embeds.dtype for c in encoded.conditions.values()} == {torch.bfloat16}
    assert encoded.latents[0][0].dtype == encoded.time_ids[0][0].dtype == torch.float32


def test_data_that_is_too_large_for_the_device_is_moved_batch_by_batch(tiny_run, tmp_path):
    dataset = with_masks(tiny_run.tiny_dataset(tmp_path), torch.ones(1, 8, 8))
    dataset = join_datasets([(dataset, 0.5)])
    encoded = encode_dataset(
        dataset, Encoding(tiny_run.TinyModel(), SilentListener(), go_on), "inference", ["x"]
    )
    device = torch.device("meta")
    draws = BatchPlan(dataset, 2, seed=0).batch(0)
    for is_resident, home in ((False, "cpu"), (True, "meta")):
        placed = encoded.to(device, torch.bfloat16, is_resident)
        assert {latent.device.type for ways in placed.latents for latent in ways} == {home}
        assert {c.pooled.device.type for c in placed.conditions.values()} == {home}
        for batch in (placed.batch(draws), placed.with_caption(placed.batch(draws), "x")):
            parts = [getattr(batch, name) for name in Batch.__dataclass_fields__]
            assert {part.device.type for part in parts} == {"meta"}


def test_encoded_pictures_count_their_bytes_and_leave_most_of_a_device_free(encode):
    encoded = encode()[1]
    latents = sum(latent.numel() * 4 for ways in encoded.latents for latent in ways)
    text = sum((c.prompt_embeds.numel() + c.pooled.numel()) * 4 for c in encoded.conditions.values())
    assert encoded.num_bytes == latents + text
    pictures = EncodedPictures(encoded, None, encoded)
    for free, home in ((11 * encoded.num_bytes, "meta"), (9 * encoded.num_bytes, "cpu")):
        placed = pictures.to(torch.device("meta"), torch.float32, free)
        assert placed.held_out is None
        assert {placed.trained.latents[0][0].device.type, placed.classes.latents[0][0].device.type} == {home}


def test_nan_latents_name_the_picture(encode, tiny_run):
    class Overflowing(tiny_run.TinyModel):
        def encode_pixels(self, pixels):
            latents = super().encode_pixels(pixels)
            latents[0, 0, 0, 0] = float("inf")
            return latents

    with pytest.raises(InputError, match=r"^\d\.png came out of the VAE as NaN"):
        encode(Overflowing())


def test_nan_text_names_the_caption(encode, tiny_run):
    class Broken(tiny_run.TinyModel):
        def _condition(self, caption):
            condition = super()._condition(caption)
            condition.pooled[0] = float("nan") if caption == "picture 2" else 0
            return condition

    with pytest.raises(InputError, match="caption 'picture 2'"):
        encode(Broken())


def test_masks_are_read_with_progress_until_told_to_stop(tiny_run, tmp_path):
    dataset = with_masks(tiny_run.tiny_dataset(tmp_path), torch.ones(1, 8, 8))
    listener = tiny_run.StopAfter()

    def stop():
        if ("reading masks", 1, 5) in listener.phases:
            raise CancelledError(0, None)

    with pytest.raises(CancelledError):
        encode_dataset(dataset, Encoding(tiny_run.TinyModel(), listener, stop), "inference")
    assert listener.phases[-1] == ("reading masks", 1, 5)


def test_asked_to_stop_it_stops_within_a_picture(encode, tiny_run):
    model, asked = tiny_run.TinyModel(), []

    def stop():
        asked.append(1)
        if len(asked) == 2:
            raise CancelledError(0, None)

    with pytest.raises(CancelledError):
        encode(model, stop)
    assert model.encoded_pictures <= 1


def test_progress_ends_at_the_total(encode, tiny_run):
    listener = tiny_run.StopAfter()
    encode(listener=listener)
    assert ("encoding pictures", 5, 5) in listener.phases
    assert ("encoding captions", 6, 6) in listener.phases
    assert listener.phases[0] == ("encoding pictures", 0, 5)


def test_bits_of_latents_and_text_do_not_depend_on_what_else_is_encoded(encode, tiny_run):
    class Mixing(tiny_run.TinyModel):
        def encode_pixels(self, pixels):
            return super().encode_pixels(pixels) + len(pixels)

        def encode_captions(self, captions):
            conditions = super().encode_captions(captions)
            return [replace(c, pooled=c.pooled + len(captions)) for c in conditions]

    dataset, encoded = encode(Mixing())
    alone = Encoding(Mixing(), SilentListener(), go_on)
    for index in range(len(dataset.pictures)):
        own = encode_dataset(dataset.only([index]), alone, "inference")
        caption = dataset.pictures[index].captions[0]
        assert torch.equal(own.latents[0][0], encoded.latents[index][0])
        assert torch.equal(own.conditions[caption].pooled, encoded.conditions[caption].pooled)


def colored(folder, colors, side=64):
    """One plain picture per color, each with a caption that only it has."""
    folder.mkdir(parents=True)
    for name, color in colors.items():
        Image.new("RGB", (side, side), color).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} square")
    return load_dataset(folder, DatasetConfig(resolution=64, bucket_step=32))


@pytest.mark.parametrize("batch_size", [2, 3])
def test_text_and_latents_of_a_sample_belong_to_one_picture_in_both_kinds_of_batch(
    tiny_run, tmp_path, batch_size
):
    """diffusers' DreamBooth script interleaves [instance, class] text over blocked latents for B > 1."""
    own = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
    kept = {"white": (255, 255, 255), "grey": (128, 128, 128), "pink": (255, 0, 255), "sea": (0, 255, 255)}
    dataset = with_class_images(colored(tmp_path / "own", own), colored(tmp_path / "kept", kept))
    model = tiny_run.TinyModel()
    for part, colors, purpose in ((dataset, own, ""), (dataset.class_set, kept, "class")):
        encoded = encode_dataset(part, Encoding(model, SilentListener(), go_on), "inference")
        plan = BatchPlan(part, batch_size, seed=4, purpose=purpose)
        seen = set()
        for index in range(3 * plan.num_batches):
            batch = encoded.batch(plan.batch(index))
            for latents, pooled, embeds in zip(batch.latents, batch.pooled, batch.prompt_embeds, strict=True):
                # the colour is read from the latents, and the text must be that colour's
                color = tuple(round(float(v + 1) * 127.5) for v in latents[:3, 0, 0])
                (name,) = [name for name, value in colors.items() if value == color]
                (condition,) = model.encode_captions([f"a {name} square"])
                assert torch.equal(pooled, condition.pooled)
                assert torch.equal(embeds, condition.prompt_embeds)
                seen.add(name)
        assert seen == set(colors)


def test_without_masks_and_weights_a_batch_has_neither(encode):
    dataset, encoded = encode()
    batch = encoded.batch(BatchPlan(dataset, 2, 1).batch(0))
    assert batch.masks is None and batch.loss_weights is None
    assert encoded.masks is None and encoded.loss_weights is None


def test_masks_and_weights_of_a_batch_are_those_of_its_pictures(tiny_run, tmp_path):
    plain = tiny_run.tiny_dataset(tmp_path, flip=True, crop="random")
    ramp = torch.linspace(0, 1, 64).repeat(5, 64, 1) * torch.linspace(0.2, 1, 5)[:, None, None]
    masked = with_masks(plain, ramp)
    other = colored(tmp_path / "other", {"red": (255, 0, 0)})
    dataset = join_datasets([(masked, 0.5), (other, 2)])
    encoded = encode_dataset(dataset, Encoding(tiny_run.TinyModel(), SilentListener(), go_on), "inference")
    encoded = encoded.to(torch.device("cpu"), torch.bfloat16)
    plan = BatchPlan(dataset, 3, seed=2)
    widths = set()
    for index in range(4 * plan.num_batches):
        draws = plan.batch(index)
        batch = encoded.batch(draws)
        assert batch.masks.shape == (len(draws), 1, *batch.latents.shape[2:])
        assert batch.masks.dtype == batch.loss_weights.dtype == torch.float32
        for place, draw in enumerate(draws):
            is_other = draw.picture == 5
            expected = dataset.load_mask(draw.variant)
            assert (expected is None) == is_other
            assert torch.equal(batch.masks[place], torch.ones(1, 8, 8) if is_other else expected)
            assert batch.loss_weights[place] == (2 if is_other else 0.5)
            widths.add(len(draws))
    assert 1 in widths or 2 in widths


def test_a_dataset_without_a_single_mask_left_has_none(tiny_run, tmp_path):
    dataset = with_masks(tiny_run.tiny_dataset(tmp_path), "alpha")  # its pictures have no alpha channel
    encoded = encode_dataset(dataset, Encoding(tiny_run.TinyModel(), SilentListener(), go_on), "inference")
    assert encoded.masks is None


def test_extra_captions_are_encoded_and_stand_for_the_whole_batch(tiny_run, tmp_path):
    dataset, model = tiny_run.tiny_dataset(tmp_path), tiny_run.TinyModel()
    text = "a photo of a dog"
    encoded = encode_dataset(dataset, Encoding(model, SilentListener(), go_on), "inference", [text])
    assert text in model.encoded_captions
    batch = encoded.batch(BatchPlan(dataset, 3, 1).batch(1))
    renamed = encoded.with_caption(batch, text)
    (condition,) = model.encode_captions([text])
    assert len(batch.latents) > 1
    assert renamed.prompt_embeds.shape == (len(batch.latents), *condition.prompt_embeds.shape)
    assert all(torch.equal(row, condition.prompt_embeds) for row in renamed.prompt_embeds)
    assert all(torch.equal(row, condition.pooled) for row in renamed.pooled)
    assert renamed.latents is batch.latents and renamed.time_ids is batch.time_ids
    assert not torch.equal(batch.pooled, renamed.pooled)
