"""From a job to a `Training`: which pictures do what, what is encoded, how the pieces are put together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from ..adapter.lora import Adapter, attach_adapter
from ..adapter.lora_initial import load_initial
from ..config import Precision, TrainConfig
from ..data.batches import BatchPlan
from ..data.dataset import TrainingSet
from ..diffusion.noise_schedule import schedule_for
from ..encoding.encoded_captions import Conditions
from ..encoding.encoded_dataset import (
    EncodedDataset,
    Encoding,
    captions_of,
    encode_dataset,
    encode_variants,
)
from ..errors import InputError
from ..files.lora_file import LoRAFile
from ..memory_plan import Level, bytes_needed, bytes_to_ask_for, checkpoint_modules, free_bytes, plan_memory
from ..optimization.loss_scale import LossScale
from ..sdxl.model import Denoiser
from ..settings.part_rates import part_window, text_end_step
from ..trained_part import TrainedPart
from ..training import ClassImages, Training
from .run_text import RunText, lora_title

PRECISIONS: Mapping[torch.dtype, Precision] = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
}
_RESIDENT_SHARE = 0.2
"""Of the free memory of a device: encoded pictures and captions that take more stay in main memory."""


@dataclass(frozen=True, slots=True)
class RunPictures:
    """The pictures of a run by what they are for; None = there are none of that kind."""

    trained: TrainingSet
    held_out: TrainingSet | None
    classes: TrainingSet | None

    @classmethod
    def of(cls, dataset: TrainingSet, config: TrainConfig) -> "RunPictures":
        """Split a dataset as the settings ask.

        Raises:
            InputError: too few pictures to hold some out.
        """
        classes = dataset.class_set if config.prior.prior_preservation == "auto" else None
        if not config.validation.validation_share:
            return cls(dataset, None, classes)
        trained, held_out = dataset.split(config.validation.validation_share)
        return cls(trained, held_out, classes)

    @property
    def notes(self) -> list[str]:
        """Sentences for the report."""
        return [] if self.held_out is None else [str(note) for note in self.held_out.notes]

    def steps_per_epoch(self, config: TrainConfig) -> int:
        """Optimizer steps in an epoch of the trained pictures."""
        return self.trained.steps_per_epoch(config.batch_size, config.run.gradient_accumulation)

    def bytes_to_ask_for(self, config: TrainConfig, device: torch.device) -> int:
        """What a host should free beside the UNet before it is opened."""
        return max(bytes_to_ask_for(config, pictures, device) for pictures in self._batched())

    def bytes_needed(self, config: TrainConfig, denoiser: Denoiser) -> Callable[[Level], int]:
        """Bytes of activations of the largest batch, by level."""
        bytes_per_value = denoiser.dtype.itemsize
        each = [
            bytes_needed(config, pictures, denoiser.unet.config, bytes_per_value)
            for pictures in self._batched()
        ]
        return lambda level: max(needed(level) for needed in each)

    def captions(self, config: TrainConfig) -> set[str]:
        """Every caption that the run encodes."""
        own = {config.prior.class_prompt} if config.prior.prior_preservation == "base_model" else set()
        sets = (self.trained, self.held_out, self.classes)
        return own.union(*(captions_of(pictures) for pictures in sets if pictures is not None))

    def _batched(self) -> list[TrainingSet]:
        return [self.trained] if self.classes is None else [self.trained, self.classes]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPictures:
    """`RunPictures` as latents and text."""

    trained: EncodedDataset
    held_out: EncodedDataset | None
    classes: EncodedDataset | None

    def to(self, device: torch.device, dtype: torch.dtype, free: int) -> "EncodedPictures":
        """For training on the device: all of it there, or batch by batch where it would crowd the model.

        Args:
            device: of the denoiser.
            dtype: of text.
            free: bytes of the device that nothing has taken.
        """
        parts = (self.trained, self.held_out, self.classes)
        num_bytes = sum(part.num_bytes for part in parts if part is not None)
        is_resident = device.type == "cpu" or num_bytes <= _RESIDENT_SHARE * free
        moved = (None if part is None else part.to(device, dtype, is_resident) for part in parts)
        trained, held_out, classes = moved
        assert trained is not None
        return EncodedPictures(trained, held_out, classes)

    def reading(self, conditions: Conditions) -> "EncodedPictures":
        """The same with captions that mean what `conditions` says."""
        return EncodedPictures(
            replace(self.trained, conditions=conditions),
            None if self.held_out is None else replace(self.held_out, conditions=conditions),
            None if self.classes is None else replace(self.classes, conditions=conditions),
        )


def encode_pictures(pictures: RunPictures, config: TrainConfig, encoding: Encoding) -> EncodedPictures:
    """Encode all pictures of a run, and their captions unless the text encoders learn.

    What the cache has is read from it; it is trimmed afterwards, when this run's files are the last used.

    Raises:
        InputError: see `encode_dataset`.
    """
    prior, sizes = config.prior, config.objective.size_conditioning
    extra = (prior.class_prompt,) if prior.prior_preservation == "base_model" else ()

    def encode(dataset: TrainingSet, captions: tuple[str, ...] = ()) -> EncodedDataset:
        if text_end_step(config):
            return encode_variants(dataset, encoding, sizes)
        return encode_dataset(dataset, encoding, sizes, captions)

    try:
        return EncodedPictures(
            trained=encode(pictures.trained, extra),
            held_out=encode(pictures.held_out) if pictures.held_out else None,
            classes=encode(pictures.classes) if pictures.classes else None,
        )
    finally:
        encoding.cache.trim()


def assemble(
    config: TrainConfig,
    pictures: RunPictures,
    encoded: EncodedPictures,
    denoiser: Denoiser,
    text: RunText,
    initial_lora: LoRAFile | None,
) -> tuple[Training, list[str]]:
    """The adapter on the open denoiser, its optimizer, and all that a step reads.

    Args:
        config: of the run.
        pictures: of the run.
        encoded: of the run, on the training device, text in the denoiser's type.
        denoiser: open, on the training device.
        text: what of the text encoders learns.
        initial_lora: what the adapter starts as, if not as nothing.

    Returns:
        The training before its first step, and sentences for the report.

    Raises:
        InputError: another precision than the model's, an initial LoRA that does not fit, an objective that
            the model's schedule rules out, or an optimizer whose package is missing.
    """
    _require_precision(config, denoiser.dtype)
    device = denoiser.unet.device
    schedule = schedule_for(denoiser.schedule, config.objective)
    has_lora = part_window(config, "unet")[1] > 0
    adapter = attach_adapter(denoiser.unet, config.lora, config.seed) if has_lora else None
    try:
        own, notes = _unet_part(config, adapter, initial_lora)
        parts = (*own, *text.parts)
        dropout = config.objective.caption_dropout
        memory = sum(part.bytes_per_weight * part.weights.master.numel() for part in parts)
        training = Training(
            config=config,
            denoiser=replace(denoiser, schedule=schedule.to(device)),
            adapter=adapter,
            parts=parts,
            text=text.trained,
            plan=BatchPlan(pictures.trained, config.batch_size, config.seed, dropout),
            encoded=encoded.trained,
            class_images=_class_images(config, pictures, encoded),
            memory=plan_memory(
                max(0, free_bytes(device) - memory),
                config.run.gradient_checkpointing,
                pictures.bytes_needed(config, denoiser),
            ),
            loss_scale=needs_loss_scale(denoiser.dtype, device),
        )
        for network in training.networks:
            checkpoint_modules(network, training.memory.level)
    except BaseException:
        if adapter is not None:
            adapter.detach()
        raise
    return training, notes


def _unet_part(
    config: TrainConfig, adapter: Adapter | None, initial_lora: LoRAFile | None
) -> tuple[list[TrainedPart], list[str]]:
    if adapter is None:
        return [], []
    notes = []
    if initial_lora is not None:
        trained_text = [name for name in config.text_encoder.trained if part_window(config, name)[1]]
        notes = load_initial(adapter, initial_lora, lora_title(initial_lora), trained_text)
    part = TrainedPart.of("unet", adapter, config, adapter.is_up)
    part.starts_from_file = initial_lora is not None
    return [part], notes


def _class_images(config: TrainConfig, pictures: RunPictures, encoded: EncodedPictures) -> ClassImages | None:
    if pictures.classes is None or encoded.classes is None:
        return None
    dropout = config.objective.caption_dropout
    plan = BatchPlan(pictures.classes, config.batch_size, config.seed, dropout, "class")
    return ClassImages(plan, encoded.classes)


def needs_loss_scale(dtype: torch.dtype, device: torch.device) -> LossScale | None:
    """Float16 has no room for small gradients; bfloat16 and float32 do."""
    return LossScale(device) if dtype == torch.float16 else None


def _require_precision(config: TrainConfig, dtype: torch.dtype) -> None:
    if config.run.precision not in ("auto", PRECISIONS[dtype]):
        raise InputError(
            f"precision is {config.run.precision}, but the model is held in {PRECISIONS[dtype]}: load it "
            "in that type, or set precision to auto"
        )
