"""MODEL, CLIP and VAE as the trainer's TrainableModel: zero-copy, and left as they were found."""

import contextlib
import gc
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch
from torch import Tensor

from .captions import encode_captions
from .families import require_sdxl
from .fingerprint import text_fingerprint, vae_fingerprint, weights_fingerprint
from .live_preview import draw_live
from .new_words import require_no_words
from .pixels import encode_pixels
from .preview import EncodedPrompts, encode_prompts, encode_prompts_with
from .resident_weights import GB, ResidentWeights, load_resident, load_resident_clip
from .sampling_schedule import noise_schedule
from .text_view import build_text_encoders, require_trainable
from .unet_view import TIME_ID_CHANNELS, build_view, drop_weights

if TYPE_CHECKING:
    from PIL import Image

    from ...trainer.config import PreviewConfig
    from ...trainer.diffusion.conditioning import TextCondition
    from ...trainer.sdxl.model import Denoiser, TextEncoders
    from ...trainer.sdxl.text_encoder import SDXLTextEncoder

# what changes the UNet's forward in sampling, and has no place in training
OPTION_KEYS = ("patches", "patches_replace", "optimized_attention_override", "wrappers", "callbacks")
# what an object patch may replace and training follows
USED_PATCHES = ("model_sampling", "latent_format", "manual_cast_dtype")
NUM_TIME_IDS = 6


class HostModel:
    """The wired MODEL, CLIP and VAE of one SDXL checkpoint.

    Attributes:
        title: file name of the checkpoint, for the metadata; "SDXL" where the graph does not tell.
        fingerprint: identifies the weights and the patches on them.
        device: where training runs.
        notes: sentences for the report: what of the inputs is ignored or was copied.

    Raises:
        InputError: one of the three is not SDXL's.
    """

    def __init__(self, model: Any, clip: Any, vae: Any, title: str, precision: str = "auto") -> None:
        require_sdxl(model, clip, vae)
        self.schedule = noise_schedule(model)  # refuses an unknown sampling before anything is encoded
        self._model, self._clip, self._vae = model, clip, vae
        self._precision = precision
        self._resident: Any = None  # the MODEL whose weights the open denoiser uses
        self._resident_clip: Any = None  # the patcher of CLIP whose weights the open text encoders use
        self.title = title or "SDXL"
        self.fingerprint = weights_fingerprint(model, clip, vae)
        self.device: torch.device = model.load_device
        self.notes = _ignored(model) + _patched(model, clip)

    @cached_property
    def vae_fingerprint(self) -> str:
        """Of the VAE alone, its type and its kind of device; nothing is moved for it."""
        return vae_fingerprint(self._model, self._vae)

    @cached_property
    def text_fingerprint(self) -> str:
        """Of CLIP alone, its patches, layer, words, type and kind of device; nothing is moved for it."""
        return text_fingerprint(self._clip)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [-1, 1] -> mean latents (B, 4, H/8, W/8), float32, scaled."""
        return encode_pixels(self._model, self._vae, pixels)

    def encode_captions(self, captions: Sequence[str]) -> "list[TextCondition]":
        """Literal captions -> what ComfyUI's CLIP makes of them."""
        unet_config = self._model.model.model_config.unet_config
        pooled_width = unet_config["adm_in_channels"] - NUM_TIME_IDS * TIME_ID_CHANNELS
        return encode_captions(self._clip, captions, (unet_config["context_dim"], pooled_width))

    def encode_prompts(
        self, prompts: Sequence[str], negative: str, encoder: "SDXLTextEncoder | None" = None
    ) -> EncodedPrompts:
        """Preview prompts in ComfyUI's syntax, weights and all, encoded with the wired CLIP.

        With an encoder of the open text encoders: through it, so that new tokens and adapters in it act.
        There `embedding:file` is plain text.
        """
        if encoder is None:
            return encode_prompts(self._clip, prompts, negative)
        return encode_prompts_with(encoder, prompts, negative)

    def draw(
        self,
        denoiser: "Denoiser",
        encoded_prompts: EncodedPrompts,
        preview: "PreviewConfig",
        size: tuple[int, int],
    ) -> "list[Image.Image]":
        """One picture for each prompt, drawn by ComfyUI's sampler with the denoiser as it is now.

        No picture when Cancel was pressed meanwhile.

        Raises:
            InputError: this ComfyUI has no such sampler or scheduler.
        """
        return draw_live(self._resident, self._vae, denoiser, encoded_prompts, preview, size)

    @contextlib.contextmanager
    def open_denoiser(self, activation_bytes: int) -> "Iterator[Denoiser]":
        """The UNet as a frozen diffusers view; every reference to it is dropped on leaving.

        Raises:
            InputError: the device is too small, or the weights are of an unknown format.
        """
        from ...trainer.sdxl.model import Denoiser

        with torch.inference_mode(False), torch.enable_grad():
            beside = [self._resident_clip] if self._resident_clip is not None else []
            resident = load_resident(self._model, self._precision, activation_bytes, beside)
            self._note_copies(resident, "weights")
            unet = build_view(self._model.model.model_config.unet_config, resident.tensors)
            resident.tensors.clear()
            self._resident = resident.patcher
            try:
                yield Denoiser(unet=unet, schedule=noise_schedule(self._model).to(self.device))
            finally:
                drop_weights(unet)
                self._resident = None
                del unet, resident
                gc.collect()
                comfy.model_management.soft_empty_cache()

    def require_trainable_text(self) -> None:
        """Refuse a CLIP that `open_text_encoders` has no use for, before anything is loaded.

        Raises:
            InputError: its encoders are of another form, or it knows words, which would not be read.
        """
        require_trainable(self._clip)
        require_no_words(self._clip)

    @contextlib.contextmanager
    def open_text_encoders(self) -> "Iterator[TextEncoders]":
        """Both text encoders as frozen views on the training device; all is dropped on leaving.

        ComfyUI may hold CLIP elsewhere, as on the CPU with --lowvram or on small cards; then they are a
        private copy. A denoiser may be open at the same time.

        Raises:
            InputError: the device is too small, CLIP's encoders or their weights are of another form, or it
                knows words.
        """
        self.require_trainable_text()
        self._note_hooks()
        with torch.inference_mode(False), torch.enable_grad():
            beside = [self._resident] if self._resident is not None else []
            resident = load_resident_clip(self._clip, self.device, beside)
            self._note_copies(resident, "text encoders")
            encoders = build_text_encoders(self._clip, resident.tensors)
            resident.tensors.clear()
            self._resident_clip = resident.patcher
            try:
                yield encoders
            finally:
                drop_weights(encoders.clip_l)
                drop_weights(encoders.clip_g)
                self._resident_clip = None
                del encoders, resident
                gc.collect()
                comfy.model_management.soft_empty_cache()

    def _note_hooks(self) -> None:
        patcher = self._clip.patcher
        hooks = [key for key in ("forced_hooks", "hook_patches") if getattr(patcher, key, None)]
        ignored = f"ignored while text encoders or new tokens train: {' and '.join(hooks)} of CLIP"
        if hooks and ignored not in self.notes:
            self.notes.append(ignored)

    def _note_copies(self, resident: ResidentWeights, what: str) -> None:
        copied = f"{resident.copied_bytes / GB:.2f} GB of {what} had to be copied for training"
        if resident.copied_bytes and copied not in self.notes:
            self.notes.append(copied)


def _ignored(model: Any) -> list[str]:
    """A warning when something on the MODEL acts on sampling only."""
    options = model.model_options
    transformer = options.get("transformer_options", {})
    found = [key for key in OPTION_KEYS if transformer.get(key)]
    found += [key for key in options if key != "transformer_options" and options[key]]
    found += [key for key in ("hook_patches", "injections") if getattr(model, key, None)]
    found += [key for key in model.object_patches if key not in USED_PATCHES]
    if not found:
        return []
    return [f"ignored while training, as they act on sampling only: {', '.join(sorted(set(found)))}"]


def _patched(model: Any, clip: Any) -> list[str]:
    """A sentence when the LoRA is trained on top of other LoRAs."""
    counts = [(len(model.patches), "model"), (len(clip.patcher.patches), "CLIP")]
    patched = [f"{count} weights of the {name}" for count, name in counts if count]
    if not patched:
        return []
    return [f"trained on top of the patches (LoRAs) in front of the trainer: {' and '.join(patched)}"]
