"""Latents and text of a whole dataset, encoded once before training and kept on the device.

A picture costs 256 KiB at 1024 px, a caption 310 KiB in half precision: a thousand of both fit into a
graphics card beside the model. `B` batch, `H W` size of the latents.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .batches import Draw
from .conditioning import Batch, TextCondition, inference_time_ids, stack_conditions, stack_time_ids
from .config import SizeConditioning
from .dataset import TrainingSet, Variant
from .errors import InputError
from .events import Listener
from .model import TrainableModel

CAPTIONS_AT_ONCE = 8
PIXELS_AT_ONCE = 1024 * 1024
"""The VAE sees so many pixels at a time: one picture at 1024 px, and small ones several together."""
PICTURES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class EncodedDataset:
    """`latents[picture][variant]` (4, H, W) float32 scaled; `time_ids` alike, (6,) float32;
    `conditions` by caption.
    """

    latents: tuple[tuple[Tensor, ...], ...]
    time_ids: tuple[tuple[Tensor, ...], ...]
    conditions: Mapping[str, TextCondition]

    def to(self, device: torch.device, dtype: torch.dtype) -> "EncodedDataset":
        """On the device; text takes the denoiser's type, latents and sizes stay exact."""
        return EncodedDataset(
            latents=tuple(tuple(v.to(device) for v in variants) for variants in self.latents),
            time_ids=tuple(tuple(v.to(device) for v in variants) for variants in self.time_ids),
            conditions={
                caption: TextCondition(c.prompt_embeds.to(device, dtype), c.pooled.to(device, dtype))
                for caption, c in self.conditions.items()
            },
        )

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """The drawn samples as one batch; all of them lie in one bucket."""
        prompt_embeds, pooled = stack_conditions([self.conditions[d.caption] for d in draws])
        return Batch(
            latents=torch.stack([self.latents[d.picture][d.variant_index] for d in draws]),
            prompt_embeds=prompt_embeds,
            pooled=pooled,
            time_ids=torch.stack([self.time_ids[d.picture][d.variant_index] for d in draws]),
        )


def encode_dataset(
    dataset: TrainingSet,
    model: TrainableModel,
    size_conditioning: SizeConditioning,
    listener: Listener,
    check_stop: Callable[[], None],
) -> EncodedDataset:
    """Encode each variant of each picture and each distinct caption, the empty one included.

    Args:
        dataset: the pictures.
        model: its VAE and text encoders.
        size_conditioning: which sizes the denoiser is told.
        listener: hears of the progress.
        check_stop: called before each picture and each few captions; raises to stop.

    Raises:
        InputError: a picture or a caption came out of its encoder as NaN or infinite; it is named.
    """
    return EncodedDataset(
        latents=_encode_pictures(dataset, model, listener, check_stop),
        time_ids=tuple(
            tuple(_time_ids(dataset, variant, size_conditioning) for variant in variants)
            for variants in dataset.variants
        ),
        conditions=_encode_captions(dataset, model, listener, check_stop),
    )


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
    dataset: TrainingSet, model: TrainableModel, listener: Listener, check_stop: Callable[[], None]
) -> dict[str, TextCondition]:
    captions = sorted({"", *(c for picture in dataset.pictures for c in picture.captions)})
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
