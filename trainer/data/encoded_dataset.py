"""Latents and text of a whole dataset, encoded once before training and kept on the device.

A picture costs 256 KiB at 1024 px, a caption 310 KiB in half precision: a thousand of both fit into a
graphics card beside the model. `B` batch, `H W` size of the latents.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import SizeConditioning
from ..diffusion.conditioning import (
    Batch,
    TextCondition,
    inference_time_ids,
    stack_conditions,
    stack_time_ids,
)
from ..errors import InputError
from ..events import Listener
from ..sdxl.model import TrainableModel
from .batches import Draw
from .masks import LATENT_DOWNSCALE
from .training_set import TrainingSet, Variant

CAPTIONS_AT_ONCE = 8
PIXELS_AT_ONCE = 1024 * 1024
"""The VAE sees so many pixels at a time: one picture at 1024 px, and small ones several together."""
PICTURES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class EncodedDataset:
    """`latents[picture][variant]` (4, H, W) float32 scaled; `time_ids` alike, (6,) float32;
    `conditions` by caption.

    `masks` alike, (1, H, W) float32, all ones for pictures without a mask; None where no picture has one.
    `loss_weights[picture]` () float32; None where all are 1.
    """

    latents: tuple[tuple[Tensor, ...], ...]
    time_ids: tuple[tuple[Tensor, ...], ...]
    conditions: Mapping[str, TextCondition]
    masks: tuple[tuple[Tensor, ...], ...] | None = None
    loss_weights: tuple[Tensor, ...] | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> "EncodedDataset":
        """On the device; text takes the denoiser's type, latents and sizes stay exact."""
        return EncodedDataset(
            latents=_each_to(self.latents, device),
            time_ids=_each_to(self.time_ids, device),
            conditions={
                caption: TextCondition(c.prompt_embeds.to(device, dtype), c.pooled.to(device, dtype))
                for caption, c in self.conditions.items()
            },
            masks=None if self.masks is None else _each_to(self.masks, device),
            loss_weights=None if self.loss_weights is None else _each_to([self.loss_weights], device)[0],
        )

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """The drawn samples as one batch; all of them lie in one bucket."""
        prompt_embeds, pooled = stack_conditions([self.conditions[d.caption] for d in draws])
        masks, weights = self.masks, self.loss_weights
        return Batch(
            latents=torch.stack([self.latents[d.picture][d.variant_index] for d in draws]),
            prompt_embeds=prompt_embeds,
            pooled=pooled,
            time_ids=torch.stack([self.time_ids[d.picture][d.variant_index] for d in draws]),
            loss_weights=None if weights is None else torch.stack([weights[d.picture] for d in draws]),
            masks=None if masks is None else torch.stack([masks[d.picture][d.variant_index] for d in draws]),
        )

    def with_caption(self, batch: Batch, caption: str) -> Batch:
        """The same samples, all of them under one caption, which must be among the encoded ones."""
        same = [self.conditions[caption]] * len(batch.latents)
        prompt_embeds, pooled = stack_conditions(same)
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
    return EncodedDataset(
        latents=_encode_pictures(dataset, model, listener, check_stop),
        time_ids=tuple(
            tuple(_time_ids(dataset, variant, size_conditioning) for variant in variants)
            for variants in dataset.variants
        ),
        conditions=_encode_captions(
            {"", *extra_captions, *(c for picture in dataset.pictures for c in picture.captions)},
            model,
            listener,
            check_stop,
        ),
        masks=_masks(dataset) if dataset.has_masks else None,
        loss_weights=_loss_weights(dataset),
    )


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


def _encode_captions(
    distinct: Set[str], model: TrainableModel, listener: Listener, check_stop: Callable[[], None]
) -> dict[str, TextCondition]:
    captions = sorted(distinct)
    listener.phase("encoding captions", 0, len(captions))
    conditions: dict[str, TextCondition] = {}
    for start in range(0, len(captions), CAPTIONS_AT_ONCE):
        check_stop()
        some = captions[start : start + CAPTIONS_AT_ONCE]
        for caption, condition in zip(some, model.encode_captions(some), strict=True):
            embeds, pooled = condition.prompt_embeds.detach(), condition.pooled.detach()
            if not bool(embeds.isfinite().all() and pooled.isfinite().all()):
                raise InputError(
                    f"the caption '{caption[:60]}' came out of the text encoders as NaN or infinite: the "
                    "CLIP of this checkpoint is damaged, use another checkpoint"
                )
            conditions[caption] = TextCondition(embeds.cpu().clone(), pooled.cpu().clone())
        listener.phase("encoding captions", len(conditions), len(captions))
    return conditions
