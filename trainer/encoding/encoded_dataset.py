"""Latents and text of a whole dataset, encoded once before training and kept on the device.

A picture costs 256 KiB at 1024 px, a caption 310 KiB in half precision: a thousand of both fit into a
graphics card beside the model. `B` batch, `H W` size of the latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import torch
from torch import Tensor

from ..config import SizeConditioning
from ..data.batches import Draw
from ..data.masks import LATENT_DOWNSCALE
from ..data.training_set import TrainingSet, Variant
from ..data.variant_pixels import as_pixels, cut_picture, open_picture
from ..diffusion.conditioning import Batch, inference_time_ids, stack_time_ids
from ..errors import InputError
from ..events import Listener
from ..sdxl.model import TrainableModel
from .encoded_cache import EncodedCache, latent_key
from .encoded_captions import Conditions, EncodedCaptions, encode_captions

FOUND_AT_ONCE = 100
"""So many latents are read from the cache between two words to the listener."""


@dataclass(frozen=True, eq=False)
class Encoding:
    """By what pictures and captions are encoded, who hears of it, and what is known already.

    `check_stop` is called before each picture, mask and caption, and raises to stop.
    """

    model: TrainableModel
    listener: Listener
    check_stop: Callable[[], None]
    cache: EncodedCache = field(default_factory=EncodedCache)

    @property
    def vae_fingerprint(self) -> str:
        """Empty where nothing is kept: reading it may take a while."""
        return self.model.vae_fingerprint if self.cache.folder is not None else ""

    @property
    def text_fingerprint(self) -> str:
        """Empty where nothing is kept: reading it may take a while."""
        return self.model.text_fingerprint if self.cache.folder is not None else ""


@dataclass(frozen=True, eq=False)
class EncodedDataset:
    """`latents[picture][variant]` (4, H, W) float32 scaled; `time_ids` alike, (6,) float32; `conditions`
    of its captions.

    `masks` alike, (1, H, W) float32, all ones for pictures without a mask; None where no picture has one.
    `loss_weights[picture]` () float32; None where all are 1. Batches are moved to `device` where it is given;
    else they lie where the data does.
    """

    latents: tuple[tuple[Tensor, ...], ...]
    time_ids: tuple[tuple[Tensor, ...], ...]
    conditions: Conditions
    masks: tuple[tuple[Tensor, ...], ...] | None = None
    loss_weights: tuple[Tensor, ...] | None = None
    device: torch.device | None = None

    def to(self, device: torch.device, dtype: torch.dtype, is_resident: bool = True) -> "EncodedDataset":
        """For training on the device; text takes the denoiser's type, latents and sizes stay exact.

        Args:
            device: where batches are wanted.
            dtype: of text.
            is_resident: all of it lies on the device; else it stays in main memory, and each batch is moved.
        """
        home = device if is_resident else torch.device("cpu")
        return EncodedDataset(
            latents=_each_to(self.latents, home),
            time_ids=_each_to(self.time_ids, home),
            conditions=self.conditions.to(home, dtype),
            masks=None if self.masks is None else _each_to(self.masks, home),
            loss_weights=None if self.loss_weights is None else _each_to([self.loss_weights], home)[0],
            device=device,
        )

    @property
    def num_bytes(self) -> int:
        """Of latents, masks and text."""
        groups = (*self.latents, *(self.masks or ()))
        return self.conditions.num_bytes + sum(tensor.nbytes for some in groups for tensor in some)

    def batch(self, draws: Sequence[Draw]) -> Batch:
        """The drawn samples as one batch; all of them lie in one bucket."""
        prompt_embeds, pooled = self.conditions.stack([d.caption for d in draws])
        masks, weights = self.masks, self.loss_weights
        batch = Batch(
            latents=torch.stack([self.latents[d.picture][d.variant_index] for d in draws]),
            prompt_embeds=prompt_embeds,
            pooled=pooled,
            time_ids=torch.stack([self.time_ids[d.picture][d.variant_index] for d in draws]),
            loss_weights=None if weights is None else torch.stack([weights[d.picture] for d in draws]),
            masks=None if masks is None else torch.stack([masks[d.picture][d.variant_index] for d in draws]),
        )
        return batch if self.device is None else batch.to(self.device)

    def with_caption(self, batch: Batch, caption: str, is_base: bool = False) -> Batch:
        """The same samples, all of them under one caption, which must be among the encoded ones.

        Args:
            batch: of this dataset.
            caption: for each sample.
            is_base: as the model reads it without any training.
        """
        stack = self.conditions.stack_base if is_base else self.conditions.stack
        prompt_embeds, pooled = stack([caption] * len(batch.latents))
        device = batch.latents.device
        return replace(batch, prompt_embeds=prompt_embeds.to(device), pooled=pooled.to(device))


def _each_to(tensors: Sequence[tuple[Tensor, ...]], device: torch.device) -> tuple[tuple[Tensor, ...], ...]:
    return tuple(tuple(tensor.to(device) for tensor in some) for some in tensors)


def encode_dataset(
    dataset: TrainingSet,
    encoding: Encoding,
    size_conditioning: SizeConditioning,
    extra_captions: Sequence[str] = (),
) -> EncodedDataset:
    """Encode each variant of each picture and each distinct caption, the empty one included.

    Class images are a dataset of their own and are encoded by a call of their own.

    Args:
        dataset: the pictures.
        encoding: the model whose VAE and text encoders are used, unless the cache has all that is asked for.
        size_conditioning: which sizes the denoiser is told.
        extra_captions: encoded too, for `EncodedDataset.with_caption`.

    Raises:
        InputError: a picture or a caption came out of its encoder as NaN or infinite; it is named.
    """
    pictures = encode_variants(dataset, encoding, size_conditioning)
    conditions = encode_captions(
        captions_of(dataset) | set(extra_captions),
        encoding.model.encode_captions,
        encoding.listener,
        encoding.check_stop,
        encoding.cache,
        encoding.text_fingerprint,
    )
    return replace(pictures, conditions=conditions)


def encode_variants(
    dataset: TrainingSet, encoding: Encoding, size_conditioning: SizeConditioning
) -> EncodedDataset:
    """A dataset without the conditions of its captions, which come from somewhere else.

    Arguments and errors as of `encode_dataset`.
    """
    return EncodedDataset(
        latents=_encode_pictures(dataset, encoding),
        time_ids=tuple(
            tuple(_time_ids(dataset, variant, size_conditioning) for variant in variants)
            for variants in dataset.variants
        ),
        conditions=EncodedCaptions(),
        masks=_masks(dataset, encoding) if dataset.has_masks else None,
        loss_weights=_loss_weights(dataset),
    )


def captions_of(dataset: TrainingSet) -> set[str]:
    """Every caption that a sample may have, the empty one included."""
    return {"", *(caption for picture in dataset.pictures for caption in picture.captions)}


def _masks(dataset: TrainingSet, encoding: Encoding) -> tuple[tuple[Tensor, ...], ...]:
    masks = []
    for picture, variants in enumerate(dataset.variants):
        encoding.check_stop()
        encoding.listener.phase("reading masks", picture, len(dataset.variants))
        width, height = variants[0].bucket
        full = torch.ones(1, height // LATENT_DOWNSCALE, width // LATENT_DOWNSCALE)
        masks.append(tuple(dataset.load_masks(picture) or [full] * len(variants)))
    encoding.listener.phase("reading masks", len(masks), len(masks))
    return tuple(masks)


def _loss_weights(dataset: TrainingSet) -> tuple[Tensor, ...] | None:
    weights = [picture.loss_weight for picture in dataset.pictures]
    if all(weight == 1 for weight in weights):
        return None
    return tuple(torch.tensor(weight, dtype=torch.float32) for weight in weights)


def _time_ids(dataset: TrainingSet, variant: Variant, size_conditioning: SizeConditioning) -> Tensor:
    true = size_conditioning == "true"
    return stack_time_ids([dataset.true_time_ids(variant) if true else inference_time_ids(variant.bucket)])[0]


def _encode_pictures(dataset: TrainingSet, encoding: Encoding) -> tuple[tuple[Tensor, ...], ...]:
    every = {
        (picture, number): variant
        for picture, variants in enumerate(dataset.variants)
        for number, variant in enumerate(variants)
    }
    cache, listener, vae = encoding.cache, encoding.listener, encoding.vae_fingerprint
    keys = {place: latent_key(vae, dataset.pictures[place[0]], variant) for place, variant in every.items()}
    listener.phase("encoding pictures", 0, len(every))
    latents: dict[tuple[int, int], Tensor] = {}
    for place in every:
        encoding.check_stop()
        found = cache.find("latents", keys[place])
        if found is not None:
            latents[place] = found["latents"]
            if len(latents) % FOUND_AT_ONCE == 0:
                listener.phase("encoding pictures", len(latents), len(every))
    if latents:
        listener.phase("encoding pictures", len(latents), len(every))
    missing = [place for place in every if place not in latents]
    for picture, places in groupby(missing, key=lambda place: place[0]):
        image = open_picture(dataset.pictures[picture])  # read once for all its variants
        for place in places:
            encoding.check_stop()
            pixels = as_pixels(cut_picture(image, every[place]))
            latents[place] = _encode_alone(pixels, encoding.model, dataset.pictures[picture].name)
            cache.keep("latents", keys[place], {"latents": latents[place]})
            listener.phase("encoding pictures", len(latents), len(every))
    return tuple(
        tuple(latents[picture, number] for number in range(len(variants)))
        for picture, variants in enumerate(dataset.variants)
    )


def _encode_alone(pixels: Tensor, model: TrainableModel, name: str) -> Tensor:
    """Latents (4, H, W), float32 on the CPU; no other picture beside it has a say in their bits."""
    encoded = model.encode_pixels(pixels[None].to(model.device))
    # clone: a tensor made in inference mode must not stay
    latents = encoded[0].detach().to("cpu", torch.float32).clone()
    if not bool(latents.isfinite().all()):
        raise InputError(
            f"{name} came out of the VAE as NaN or infinite: take the "
            "picture out, or use a VAE that works in half precision (sdxl-vae-fp16-fix)"
        )
    return latents
