"""A whole run on a very small UNet: for the tests, and as a program for those that kill it.

`python tiny_run.py FOLDER STEPS SAVE_EVERY` trains on FOLDER/pictures and writes into FOLDER.
"""

import hashlib
import pickle
import sys
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
if "sdxl_trainer" not in sys.modules:
    sys.modules["sdxl_trainer"] = type(sys)("sdxl_trainer")
    sys.modules["sdxl_trainer"].__path__ = [str(ROOT)]

from diffusers import UNet2DConditionModel  # noqa: E402
from sdxl_trainer.trainer.config import SECTIONS, DatasetConfig, TrainConfig  # noqa: E402
from sdxl_trainer.trainer.data.dataset import load_dataset  # noqa: E402
from sdxl_trainer.trainer.diffusion.conditioning import TextCondition  # noqa: E402
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule  # noqa: E402
from sdxl_trainer.trainer.events import SilentListener  # noqa: E402
from sdxl_trainer.trainer.runs.run import Job, train  # noqa: E402
from sdxl_trainer.trainer.runs.run_folder import RunFiles  # noqa: E402
from sdxl_trainer.trainer.sdxl.model import Denoiser, TextEncoders  # noqa: E402
from sdxl_trainer.trainer.sdxl.sampling import sample_latents  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection  # noqa: E402

TEXT_WIDTH, POOLED_WIDTH = 16, 8
SIZE = (64, 64)
"""(width, height) of the bucket that holds most of `draw_pictures`."""


def tiny_unet(dtype=torch.float32):
    """The shape of SDXL with one layer of everything, random but always the same."""
    return pickle.loads(_tiny_unet(dtype))  # half the time of a deep copy


@lru_cache
def _tiny_unet(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            transformer_layers_per_block=(1, 1, 1),
            attention_head_dim=(2, 2, 4),
            cross_attention_dim=TEXT_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=POOLED_WIDTH + 6 * 8,
            use_linear_projection=True,
            norm_num_groups=8,
        )
    return pickle.dumps(unet.to(dtype).eval().requires_grad_(False))


def tiny_text_encoders():
    """SDXL's pair with two layers each, 6 and 10 wide, and CLIP's whole vocabulary; always the same."""
    return pickle.loads(_tiny_text_encoders())


@lru_cache
def _tiny_text_encoders():
    sizes = {"intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"projection_dim": POOLED_WIDTH, "vocab_size": 49408}
    with torch.random.fork_rng():
        torch.manual_seed(8)
        pair = [
            kind(CLIPTextConfig(**sizes, hidden_size=width))
            for kind, width in ((CLIPTextModel, 6), (CLIPTextModelWithProjection, TEXT_WIDTH - 6))
        ]
        for encoder in pair:
            for weight in encoder.parameters():
                weight.data.normal_(0, 0.3)
    return pickle.dumps([encoder.eval().requires_grad_(False) for encoder in pair])


class TinyModel:
    """A TrainableModel without files: pixels are averaged to latents, captions are hashed to text."""

    title = "tiny.safetensors"
    fingerprint = "tiny"
    vae_fingerprint = "tiny VAE"
    text_fingerprint = "tiny text encoders"
    device = torch.device("cpu")

    def __init__(self, dtype=torch.float32, unet=None):
        self.dtype = dtype
        self.schedule = NoiseSchedule.sdxl()
        self.unet = unet or tiny_unet(dtype)
        self.encoded_pictures = 0
        self.encoded_captions = []
        self.times_opened = 0
        self.text_is_open = False

    def encode_pixels(self, pixels):
        self.encoded_pictures += len(pixels)
        small = F.avg_pool2d(pixels, 8)
        return torch.cat([small, small.mean(1, keepdim=True)], dim=1)

    def encode_captions(self, captions):
        self.encoded_captions += captions
        return [self._condition(caption) for caption in captions]

    def _condition(self, caption):
        digest = hashlib.sha256(caption.encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
        tokens = 4 if len(caption) < 40 else 8
        return TextCondition(
            torch.randn(tokens, TEXT_WIDTH, generator=generator),
            torch.randn(POOLED_WIDTH, generator=generator),
        )

    def encode_prompts(self, prompts, negative, encoder=None):
        texts = [*prompts, negative]
        return [self._condition(text) for text in texts] if encoder is None else encoder.encode(texts)

    @contextmanager
    def open_text_encoders(self):
        self.text_is_open = True
        yield TextEncoders(*tiny_text_encoders())
        self.text_is_open = False

    def draw(self, denoiser, encoded_prompts, preview, size):
        *prompts, negative = encoded_prompts
        latents = sample_latents(denoiser, prompts, negative, preview, size)
        levels = (latents[:, :3].tanh() * 127 + 128).to(torch.uint8)
        return [Image.fromarray(row.permute(1, 2, 0).numpy()) for row in levels]

    @contextmanager
    def open_denoiser(self, activation_bytes):
        self.times_opened += 1
        yield Denoiser(self.unet, NoiseSchedule.sdxl())


class StopAfter(SilentListener):
    """Asks to stop once `step` steps are done, and writes down what it hears."""

    def __init__(self, step=10**9):
        self.stop_at = step
        self.reports, self.files, self.phases = [], [], []
        self.measured, self.drawn = [], []

    def phase(self, name, done, total):
        self.phases.append((name, done, total))

    def step(self, report):
        self.reports.append(report)

    def checkpoint(self, step, lora_path):
        self.files.append((step, lora_path.name))

    def validation(self, step, loss, is_best):
        self.measured.append((step, loss, is_best))

    def preview(self, step, pictures):
        self.drawn.append((step, [path.name for path in pictures]))

    def should_stop(self):
        return bool(self.reports) and self.reports[-1].step >= self.stop_at

    @property
    def losses(self):
        return [report.loss for report in self.reports]


def draw_pictures(folder, number=5, captions=None, seed=3):
    """Seeded noise of two shapes, so that there are two buckets."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(seed)
    for index in range(number):
        height = 64 if index % 3 else 128
        values = chance.integers(0, 255, (height, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{index}.png")
        text = captions[index] if captions else f"picture {index}"
        (folder / f"{index}.txt").write_text(text, "utf-8")
    return folder


def tiny_dataset(folder, **values):
    if not (folder / "pictures").exists():
        draw_pictures(folder / "pictures")
    return load_dataset(folder / "pictures", DatasetConfig(**{"resolution": 64, "bucket_step": 32, **values}))


DEFAULTS = {
    "lora": {"rank": 2, "targets": "attention"},
    "optimizer": {"learning_rate": 1e-2},
    "run": {"save_every": 0},
}


def tiny_config(**values):
    """`lora={"rank": 4}` changes one value of a section."""
    sections = {
        name: kind(**{**DEFAULTS.get(name, {}), **values.pop(name, {})}) for name, kind in SECTIONS.items()
    }
    return TrainConfig(**{"name": "cat", "steps": 6, **values, **sections})


def tiny_job(folder, dataset=None, initial_lora=None, **values):
    return Job(
        config=tiny_config(**values),
        dataset=dataset or tiny_dataset(folder),
        loras_folder=folder / "loras",
        run_folder=folder / "runs",
        initial_lora=initial_lora,
        embeddings_folder=folder / "embeddings",
    )


def tiny_files(folder):
    """The files of `run_tiny` in this folder."""
    return RunFiles("cat", folder / "loras", folder / "runs" / "cat")


def run_tiny(folder, listener=None, model=None, **values):
    return train(tiny_job(folder, **values), model or TinyModel(), listener or StopAfter())


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, num_steps, every = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    result = run_tiny(where, steps=num_steps, run={"save_every": every})
    sys.stdout.write(result.report)
