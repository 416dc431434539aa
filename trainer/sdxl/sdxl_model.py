"""SDXL without a host: the trainer's model read from a diffusers folder or a .safetensors file."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from ..config import PreviewConfig
from ..diffusion.conditioning import TextCondition
from ..errors import InputError
from ..files.embedding_file import WordVectors, read_words
from ..files.lora_file import LoRAFile, read_lora
from ..files.lora_merge import merge_lora, merge_text_lora
from ..files.text_lora_names import is_text_name
from ..settings.text_config import ENCODERS
from ..text.new_tokens import NewTokens
from ..text.token_vectors import with_vectors
from .model import Denoiser, TextEncoders
from .sampling import decode_latents, sample_latents
from .sdxl_files import SDXLFiles, open_checkpoint
from .text_encoder import SDXLTextEncoder

SAMPLER, SCHEDULER = "euler", "normal"
"""What there is without ComfyUI."""


class HeadlessSDXL:
    """A TrainableModel whose networks are read from disk when they are needed and dropped after it.

    Text encoders and VAE compute in float32 and make room when the denoiser is opened.
    """

    def __init__(self, files: SDXLFiles, device: torch.device, dtype: torch.dtype) -> None:
        self._files = files
        self._dtype = dtype
        self._vae: AutoencoderKL | None = None
        self._text_encoder: SDXLTextEncoder | None = None
        self.title = files.title
        self.fingerprint = files.fingerprint()
        self.device = device
        self.schedule = files.schedule

    @classmethod
    def load(
        cls, path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> "HeadlessSDXL":
        """Open a checkpoint; only its table of contents is read yet.

        Args:
            path: a diffusers folder (full precision or fp16 variant) or a single .safetensors file.
            device: where to train.
            dtype: of the UNet; None = bfloat16 on a GPU that has it, else float16 there, float32 elsewhere.

        Raises:
            InputError: not SDXL base (named for what it is), damaged, incomplete, or a pickle.
        """
        where = torch.device(device)
        return cls(open_checkpoint(Path(path).expanduser()), where, dtype or _default_dtype(where))

    @cached_property
    def vae_fingerprint(self) -> str:
        """Of the VAE's weights and config, float32, and the kind of device."""
        return f"{self._files.vae.fingerprint()} x {self._files.scaling_factor} {self._computed}"

    @cached_property
    def text_fingerprint(self) -> str:
        """Of both text encoders' weights and configs, float32, and the kind of device."""
        return f"{self._files.clip_l.fingerprint()} {self._files.clip_g.fingerprint()} {self._computed}"

    @property
    def _computed(self) -> str:
        """How VAE and text encoders compute, whatever the UNet does."""
        return f"headless float32 {self.device.type}"

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """(B, 3, 8·H, 8·W) in [-1, 1] -> scaled latents (B, 4, H, W), float32: the posterior's mean."""
        vae = self._load_vae()
        mean = vae.encode(pixels.to(self.device, torch.float32)).latent_dist.mean
        return mean * self._files.scaling_factor

    def encode_captions(self, captions: Sequence[str]) -> list[TextCondition]:
        """One float32 condition per caption, on the training device."""
        if self._text_encoder is None:
            self._text_encoder = SDXLTextEncoder(self._load_encoders())
        return self._text_encoder.encode(captions)

    @contextmanager
    def open_text_encoders(self) -> Iterator[TextEncoders]:
        """Both encoders, read from disk for this caller alone; those of `encode_captions` make room."""
        self._release_encoders()
        encoders = self._load_encoders()
        try:
            yield encoders
        finally:
            # adapters and tokens outlive them: whoever still holds a module of theirs holds no memory
            for encoder in (encoders.clip_l, encoders.clip_g):
                encoder.to("meta")
            del encoders
            _give_memory_back(self.device)

    @contextmanager
    def open_denoiser(self, activation_bytes: int) -> Iterator[Denoiser]:
        """The UNet, read from disk for this caller alone; `activation_bytes` has no other tenant to free."""
        self._release_encoders()
        unet = self._files.unet.load(self.device, self._dtype)
        try:
            yield Denoiser(unet, self._files.schedule.to(self.device))
        finally:
            del unet
            _give_memory_back(self.device)

    def encode_prompts(
        self, prompts: Sequence[str], negative: str, encoder: SDXLTextEncoder | None = None
    ) -> list[TextCondition]:
        """The prompts' conditions and, last, the negative one's; the texts are literal."""
        encode = self.encode_captions if encoder is None else encoder.encode
        return encode([*prompts, negative])

    def draw(
        self,
        denoiser: Denoiser,
        encoded_prompts: Sequence[TextCondition],
        preview: PreviewConfig,
        size: tuple[int, int],
    ) -> list[Image.Image]:
        """One picture for each prompt, with the denoiser as it is now; the VAE is dropped again after it.

        Raises:
            InputError: a sampler or scheduler that only ComfyUI has, or a size that is no multiple of 8.
        """
        if (preview.sampler, preview.scheduler) != (SAMPLER, SCHEDULER):
            raise InputError(
                f"preview settings: sampler is '{preview.sampler}' and scheduler '{preview.scheduler}', but "
                f"without ComfyUI there are only '{SAMPLER}' and '{SCHEDULER}'"
            )
        *conditions, negative = encoded_prompts
        latents = sample_latents(denoiser, conditions, negative, preview, size)
        try:
            return decode_latents(self._load_vae(), latents, self._files.scaling_factor)
        finally:
            self._release_encoders()

    def sample(
        self,
        prompts: Sequence[str],
        preview: PreviewConfig,
        width: int,
        height: int,
        lora_path: Path | None = None,
    ) -> list[Image.Image]:
        """One picture per prompt, with a LoRA file of kohya's names merged into UNet and text encoders.

        Words that it was trained with are understood. Their vectors are read from the file itself, from the
        embedding beside it, or from a folder `embeddings` beside it or its folder.

        Raises:
            InputError: a LoRA that does not fit or lacks its embedding, or a size that is no multiple of 8.
        """
        if not prompts:
            return []
        lora = None if lora_path is None else read_lora(lora_path)
        texts = [*prompts, preview.negative]
        if lora is None or lora_path is None:
            *conditions, negative = self.encode_captions(texts)
        else:
            words = read_words(lora, partial(_find_embedding, lora_path.parent))
            *conditions, negative = self._encode_with(lora, words, texts)
        with self.open_denoiser(0) as denoiser:
            if lora is not None:
                merge_lora(denoiser.unet, lora)
            latents = sample_latents(denoiser, conditions, negative, preview, (width, height))
        del denoiser  # the UNet leaves before the VAE comes
        return decode_latents(self._load_vae(), latents, self._files.scaling_factor)

    def _encode_with(
        self, lora: LoRAFile, words: WordVectors | None, texts: Sequence[str]
    ) -> list[TextCondition]:
        """As `encode_captions`, with what a LoRA file changes of the text encoders."""
        vectors = {} if words is None else words.vectors
        if not vectors and not any(is_text_name(name) for name in lora.names):
            return self.encode_captions(texts)
        new_tokens = NewTokens(tuple((word, len(own["clip_l"])) for word, own in vectors.items()))
        with self.open_text_encoders() as encoders, ExitStack() as stack:
            merge_text_lora(encoders.clip_l, "clip_l", lora)
            merge_text_lora(encoders.clip_g, "clip_g", lora)
            if vectors:
                rows = {name: torch.cat([own[name] for own in vectors.values()]) for name in ENCODERS}
                stack.enter_context(with_vectors(encoders, rows))
            return SDXLTextEncoder(encoders, new_tokens).encode(texts)

    def _load_encoders(self) -> TextEncoders:
        # float32: half precision is 1e-3 away from what ComfyUI computes
        parts = (self._files.clip_l, self._files.clip_g)
        return TextEncoders(*(part.load(self.device, torch.float32) for part in parts))

    def _load_vae(self) -> AutoencoderKL:
        if self._vae is None:
            # float32, never float16: SDXL's autoencoder overflows there
            self._vae = self._files.vae.load(self.device, torch.float32)
        return self._vae

    def _release_encoders(self) -> None:
        self._vae = self._text_encoder = None
        _give_memory_back(self.device)


def _find_embedding(folder: Path, stem: str) -> Path | None:
    file = f"{Path(stem).name}.safetensors"
    places = (folder / file, folder / "embeddings" / file, folder.parent / "embeddings" / file)
    return next((place for place in places if place.is_file()), None)


def _default_dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _give_memory_back(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
