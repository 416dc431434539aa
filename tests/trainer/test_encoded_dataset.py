import pytest
import torch
from sdxl_trainer.trainer.batches import BatchPlan
from sdxl_trainer.trainer.encoded_dataset import encode_dataset
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.events import SilentListener


def go_on():
    pass


@pytest.fixture
def encode(tiny_run, tmp_path):
    def run(model=None, check_stop=go_on, listener=None, size_conditioning="inference", **values):
        dataset = tiny_run.tiny_dataset(tmp_path, **values)
        encoded = encode_dataset(
            dataset,
            model or tiny_run.TinyModel(),
            size_conditioning,
            listener or SilentListener(),
            check_stop,
        )
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


def test_pictures_that_do_not_fit_together_go_one_by_one(encode, tiny_run):
    class Small(tiny_run.TinyModel):
        def encode_pixels(self, pixels):
            if len(pixels) > 1:
                raise torch.cuda.OutOfMemoryError
            return super().encode_pixels(pixels)

    _, ours = encode(Small())
    _, theirs = encode()
    assert all(torch.equal(a[0], b[0]) for a, b in zip(ours.latents, theirs.latents, strict=True))
