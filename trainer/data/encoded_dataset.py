"""Latents and text of a whole dataset, encoded once before training and kept on the device.

A picture costs 256 KiB at 1024 px, a caption 310 KiB in half precision: a thousand of both fit into a
graphics card beside the model. `B` batch, `H W` size of the latents.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import SizeConditioning
from ..diffusion.conditioning import Batch, inference_time_ids, stack_time_ids
from ..errors import InputError
from ..events import Listener
from ..sdxl.model import TrainableModel
from .batches import Draw
from .encoded_captions import Conditions, EncodedCaptions, encode_captions
from .masks import LATENT_DOWNSCALE
from .training_set import TrainingSet, Variant

PIXELS_AT_ONCE = 1024 * 1024
"""The VAE sees so many pixels at a time: one picture at 1024 px, and small ones several together."""
PICTURES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class EncodedDataset:
    """`latents[picture][variant]` (4, H, W) float32 scaled; `time_ids` alike, (6,) float32; `conditions`
    of its captions.

    `masks` alike, (1, H, W) float32, all ones for pictures without a mask; None where no picture has one.
    `loss_weights[picture]` () float32; None where all are 1.
    """

    latents: tuple[tuple[Tensor, ...], ...]
    time_ids: tuple[tuple[Tensor, ...], ...]
    conditions: Conditions
    masks: tuple[tuple[Tensor, ...], ...] | None = None
    loss_weights: tuple[Tensor, ...] | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> "EncodedDataset":
        """On the device; text takes the denoiser's type, latents and sizes stay exact."""
        return EncodedDataset(
            latents=_each_to(self.latents, device),
            time_ids=_each_to(self.time_ids, device),
            conditions=self.conditions.to(device, dtype),
            masks=None if self.masks is None else _each_to(self.masks, device),
            loss_weights=None if self.loss_weights is None else _each_to([self.loss_weights], device)[0],
        )

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """The drawn samples as one batch; all of them lie in one bucket."""
        prompt_embeds, pooled = self.conditions.stack([d.caption for d in draws])
        masks, weights = self.masks, self.loss_weights
        return Batch(
            latents=torch.stack([self.latents[d.picture][d.variant_index] for d in draws]),
            prompt_embeds=prompt_embeds,
            pooled=pooled,
            time_ids=torch.stack([self.time_ids[d.picture][d.variant_index] for d in draws]),
            loss_weights=None if weights is None else torch.stack([weights[d.picture] for d in draws]),
            masks=None if masks is None else torch.stack([masks[d.picture][d.variant_index] for d in draws]),
        )

    def with_caption(self, batch: Batch, caption: str, is_base: bool = False) -> Batch:
        """The same samples, all of them under one caption, which must be among the encoded ones.

        Args:
            batch: of this dataset.
            caption: for each sample.
            is_base: as the model reads it without any training.
        """
        stack = self.conditions.stack_base if is_base else self.conditions.stack
        prompt_embeds, pooled = stack([caption] * len(batch.latents))
        return replace(batch, prompt_embeds=prompt_embeds, pooled=pooled)


def _each_to(tensors: Sequence[tuple[Tensor, ...]], device: torch.device) -> tuple[tuple[Tensor, ...], ...]:
    return tuple(tuple(tensor.to(device) for tensor in some) for some in tensors)


def encode_dataset(
    dataset: TrainingSet,
    model: TrainableModel,
    size_conditioning: SizeConditioning,
    listener: Listener,
    check_stop: Callable[[], None],
    extra_captions: Sequence[str] = (),
) -> EncodedDataset:
    """Encode each variant of each picture and each distinct caption, the empty one included.

    Class images are a dataset of their own and are encoded by a call of their own.

    Args:
        dataset: the pictures.
        model: its VAE and text encoders.
        size_conditioning: which sizes the denoiser is told.
        listener: hears of the progress.
        check_stop: called before each picture and each few captions; raises to stop.
        extra_captions: encoded too, for `EncodedDataset.with_caption`.

    Raises:
        InputError: a picture or a caption came out of its encoder as NaN or infinite; it is named.
    """
    pictures = encode_variants(dataset, model, size_conditioning, listener, check_stop)
    captions = captions_of(dataset) | set(extra_captions)
    conditions = encode_captions(captions, model.encode_captions, listener, check_stop)
    return replace(pictures, conditions=conditions)


def encode_variants(
    dataset: TrainingSet,
    model: TrainableModel,
    size_conditioning: SizeConditioning,
    listener: Listener,
    check_stop: Callable[[], None],
) -> EncodedDataset:
    """A dataset without the conditions of its captions, which come from somewhere else.

    Arguments and errors as of `encode_dataset`.
    """
    return EncodedDataset(
        latents=_encode_pictures(dataset, model, listener, check_stop),
        time_ids=tuple(
            tuple(_time_ids(dataset, variant, size_conditioning) for variant in variants)
            for variants in dataset.variants
        ),
        conditions=EncodedCaptions(),
        masks=_masks(dataset) if dataset.has_masks else None,
        loss_weights=_loss_weights(dataset),
    )


def captions_of(dataset: TrainingSet) -> set[str]:
    """Every caption that a sample may have, the empty one included."""
    return {"", *(caption for picture in dataset.pictures for caption in picture.captions)}


def _masks(dataset: TrainingSet) -> tuple[tuple[Tensor, ...], ...]:
    masks = []
    for picture, variants in enumerate(dataset.variants):
        width, height = variants[0].bucket
        full = torch.ones(1, height // LATENT_DOWNSCALE, width // LATENT_DOWNSCALE)
        masks.append(tuple(dataset.load_masks(picture) or [full] * len(variants)))
    return tuple(masks)


def _loss_weights(dataset: TrainingSet) -> tuple[Tensor, ...] | None:
    weights = [picture.loss_weight for picture in dataset.pictures]
    if all(weight == 1 for weight in weights):
        return None
    return tuple(torch.tensor(weight, dtype=torch.float32) for weight in weights)


def _time_ids(dataset: TrainingSet, variant: Variant, size_conditioning: SizeConditioning) -> Tensor:
    true = size_conditioning == "true"
    return stack_time_ids([dataset.true_time_ids(variant) if true else inference_time_ids(variant.bucket)])[0]


def _encode_pictures(
    dataset: TrainingSet, model: TrainableModel, listener: Listener, check_stop: Callable[[], None]
) -> tuple[tuple[Tensor, ...], ...]:
    latents: dict[tuple[int, int], Tensor] = {}
    total = sum(len(variants) for variants in dataset.variants)
    listener.phase("encoding pictures", 0, total)
    for places in _groups_of_one_size(dataset):
        pixels = []
        for picture, number in places:
            check_stop()
            pixels.append(dataset.load_pixels(dataset.variants[picture][number]))
        encoded = _encode_pixels(model, torch.stack(pixels))
        for place, latent in zip(places, encoded, strict=True):
            if not bool(latent.isfinite().all()):
                raise InputError(
                    f"{dataset.pictures[place[0]].name} came out of the VAE as NaN or infinite: take the "
                    "picture out, or use a VAE that works in half precision (sdxl-vae-fp16-fix)"
                )
            latents[place] = latent
        listener.phase("encoding pictures", len(latents), total)
    return tuple(
        tuple(latents[picture, number] for number in range(len(variants)))
        for picture, variants in enumerate(dataset.variants)
    )


def _groups_of_one_size(dataset: TrainingSet) -> Iterator[list[tuple[int, int]]]:
    """(picture, variant number) of all variants, in groups that the VAE takes at once."""
    for (width, height), pictures in dataset.buckets.items():
        places = [(p, number) for p in pictures for number in range(len(dataset.variants[p]))]
        at_once = min(PICTURES_AT_ONCE, max(1, PIXELS_AT_ONCE // (width * height)))
        for start in range(0, len(places), at_once):
            yield places[start : start + at_once]


def _encode_pixels(model: TrainableModel, pixels: Tensor) -> list[Tensor]:
    """Latents of each picture, float32 on the CPU; pictures that do not fit together go one by one."""
    try:
        encoded = model.encode_pixels(pixels.to(model.device))
    except torch.cuda.OutOfMemoryError:
        if len(pixels) == 1:
            raise
        return [_encode_pixels(model, picture)[0] for picture in pixels.split(1)]
    # clone: a tensor made in inference mode, or a view that holds the whole batch, must not stay.
    return [latent.clone() for latent in encoded.detach().to("cpu", torch.float32)]
