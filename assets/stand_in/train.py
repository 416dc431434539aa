"""Train the stand-in model `assets/tiny_sdxl` from scratch: python assets/stand_in/train.py --merges FILE.

A real SDXL in small: two CLIP text encoders on CLIP's own vocabulary, size and crop conditioning, a
4-channel autoencoder whose latents keep SDXL's scale of 0.13025. First the autoencoder learns on crops of
cluttered pictures, then its decoder alone on whole pictures, then denoiser and text encoders learn together
on captioned scenes. `--start FOLDER` goes on from earlier weights; a stage of 0 steps is left out.
"""

import argparse
import logging
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.schedulers import EulerDiscreteScheduler
from draw import Scene, draw_clutter, draw_scene, random_scene
from PIL import Image
from tokenizer import write_tokenizer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

logger = logging.getLogger(__name__)

SIDE = 128
LATENT_SCALE = 0.13025
AUTOENCODER_BATCH, AUTOENCODER_RATE = 16, 8e-4
DECODER_BATCH, DECODER_RATE = 8, 1e-3
DENOISER_BATCH, DENOISER_RATE = 32, 1.2e-3


def to_pixels(image: Image.Image) -> Tensor:
    """(3, H, W) in [-1, 1]."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, 3).permute(2, 0, 1).float() / 127.5 - 1


def new_autoencoder() -> AutoencoderKL:
    # 32 norm groups, because ComfyUI's autoencoder has that number built in
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=SIDE,
        scaling_factor=LATENT_SCALE,
    )


def new_text_encoders() -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    shared = {"num_hidden_layers": 3, "bos_token_id": 49406, "eos_token_id": 49407}
    small = CLIPTextConfig(
        hidden_size=16, intermediate_size=64, num_attention_heads=2, pad_token_id=49407, **shared
    )
    large = CLIPTextConfig(
        hidden_size=24,
        intermediate_size=96,
        num_attention_heads=3,
        projection_dim=24,
        hidden_act="gelu",
        pad_token_id=0,
        **shared,
    )
    return CLIPTextModel(small), CLIPTextModelWithProjection(large)


def new_denoiser(context: int, pooled: int) -> UNet2DConditionModel:
    channels = (64, 64, 128)
    return UNet2DConditionModel(
        sample_size=SIDE // 8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=channels,
        layers_per_block=1,
        transformer_layers_per_block=(1, 1, 1),
        cross_attention_dim=context,
        attention_head_dim=tuple(c // 32 for c in channels),  # diffusers calls the number of heads so
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=pooled + 6 * 256,
    )


def cosine_rate(step: int, steps: int, rate: float) -> float:
    return rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / steps)))


def clutter_batches(seed: int) -> Iterator[Tensor]:
    """Crops of 64 pixels out of cluttered pictures drawn at 128: the scale of edges that matters."""
    rng = random.Random(seed)
    pool = [to_pixels(draw_clutter(SIDE, rng)) for _ in range(1500)]
    pool += [to_pixels(draw_scene(random_scene(rng), SIDE, rng)) for _ in range(500)]
    while True:
        crops = []
        for picture in rng.sample(pool, AUTOENCODER_BATCH):
            top, left = rng.randrange(SIDE - 63), rng.randrange(SIDE - 63)
            crops.append(picture[:, top : top + 64, left : left + 64])
        yield torch.stack(crops)


def train_autoencoder(model: AutoencoderKL, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=AUTOENCODER_RATE)
    batches = clutter_batches(seed=1)
    started = time.monotonic()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = cosine_rate(step, steps, AUTOENCODER_RATE)
        pixels = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(pixels).latent_dist
            reconstruction = model.decode(posterior.sample()).sample.float()
        error = reconstruction - pixels
        loss = error.square().mean() + 0.3 * error.abs().mean() + 1e-6 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            mean_error, spent = error.abs().mean().item(), time.monotonic() - started
            logger.info("autoencoder step %d: mean error %.4f, %.0f s", step, mean_error, spent)


def train_decoder(model: AutoencoderKL, pictures: Tensor, steps: int) -> None:
    """Polish the decoder on whole pictures; the encoder, and so every latent, stays as it is.

    Its normalisation has one channel a group here, so colours depend on the size of what it sees.
    """
    rng, generator = random.Random(11), torch.Generator().manual_seed(11)
    clutter = torch.stack([to_pixels(draw_clutter(SIDE, rng)) for _ in range(600)])
    pool = torch.cat([pictures[:1800], clutter])
    with torch.no_grad():
        latents = torch.cat([model.encode(chunk).latent_dist.mean for chunk in pool.split(50)])
    parameters = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=DECODER_RATE)
    started = time.monotonic()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = cosine_rate(step, steps, DECODER_RATE)
        picks = torch.randint(0, len(pool), (DECODER_BATCH,), generator=generator)
        blurred = latents[picks] + 0.05 / LATENT_SCALE * torch.randn(
            latents[picks].shape, generator=generator
        )
        with torch.autocast("cpu", torch.bfloat16):
            reconstruction = model.decode(blurred).sample.float()
        error = reconstruction - pool[picks]
        loss = error.square().mean() + error.abs().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0:
            mean_error, spent = error.abs().mean().item(), time.monotonic() - started
            logger.info("decoder step %d: mean error %.4f, %.0f s", step, mean_error, spent)


@torch.no_grad()
def scale_latents(model: AutoencoderKL, pictures: Tensor) -> None:
    """Fold a factor into the 1x1 convolutions so that latents x 0.13025 have a deviation of one."""
    latents = torch.cat([model.encode(chunk).latent_dist.mean for chunk in pictures.split(50)])
    factor = 1 / (LATENT_SCALE * latents.std())
    mean_channels, log_variance_channels = slice(0, 4), slice(4, 8)
    model.quant_conv.weight[mean_channels] *= factor
    model.quant_conv.bias[mean_channels] *= factor
    model.quant_conv.bias[log_variance_channels] += 2 * factor.log()
    model.post_quant_conv.weight /= factor


class Conditioner(nn.Module):
    """Both text encoders as SDXL uses them: penultimate states side by side, pooled from the second."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = new_text_encoders()
        self.tokenizers: list[CLIPTokenizer] = []

    def forward(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        ids_small, ids_large = (tokenize(t, captions) for t in self.tokenizers)
        states_small = self.small(ids_small, output_hidden_states=True).hidden_states[-2]
        large = self.large(ids_large, output_hidden_states=True)
        return torch.cat([states_small, large.hidden_states[-2]], dim=-1), large.text_embeds


def vary_caption(scene: Scene, rng: random.Random) -> str:
    """The full caption mostly; sometimes a part of it, so that shorter prompts are understood too."""
    draw = rng.random()
    if draw < 0.10:
        return ""
    if draw < 0.22:
        return scene.caption.replace(f" {scene.size}", "")
    if draw < 0.30:
        return scene.caption.split(" on a ")[0]
    if draw < 0.36:
        return f"a {scene.background} background"
    return scene.caption


def vary_time_ids(count: int, generator: torch.Generator) -> Tensor:
    """Mostly the true size; sometimes others, so that an unusual size does not throw the model off."""
    time_ids = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]]).repeat(count, 1).float()
    other = torch.randint(64, 1025, (count, 6), generator=generator).float()
    other[:, 2:4] = other[:, 2:4] % 64
    return torch.where(torch.rand(count, 1, generator=generator) < 0.15, other, time_ids)


def train_denoiser(
    unet: UNet2DConditionModel,
    conditioner: Conditioner,
    latents: Tensor,
    scenes: list[Scene],
    steps: int,
    rate: float,
) -> None:
    """Train denoiser and text encoders together, and leave the averaged weights in them."""
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    tables = [m.get_input_embeddings().weight for m in (conditioner.small, conditioner.large)]
    ids = {id(table) for table in tables}
    others = [p for p in [*unet.parameters(), *conditioner.parameters()] if id(p) not in ids]
    # decay would shrink the rows of words that no caption holds
    groups = [{"params": others, "weight_decay": 0.01}, {"params": tables, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=rate)
    parameters = [*others, *tables]
    averages = [p.detach().clone() for p in parameters]

    rng, generator = random.Random(7), torch.Generator().manual_seed(7)
    started, smoothed = time.monotonic(), 1.0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(step, steps, rate)
        picks = [rng.randrange(len(scenes)) for _ in range(DENOISER_BATCH)]
        captions = [vary_caption(scenes[i], rng) for i in picks]
        clean = latents[picks]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(0, 1000, (DENOISER_BATCH,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            embeds, pooled = conditioner(captions)
            conditions = {"text_embeds": pooled, "time_ids": vary_time_ids(DENOISER_BATCH, generator)}
            noisy = schedule.add_noise(clean, noise, timesteps)
            prediction = unet(noisy, timesteps, embeds, added_cond_kwargs=conditions).sample
        loss = F.mse_loss(prediction.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        torch._foreach_lerp_(averages, [p.detach() for p in parameters], max(0.002, 1 / (step + 1)))

        smoothed += (loss.item() - smoothed) * 0.01
        if step % 200 == 0:
            logger.info("denoiser step %d: loss %.4f, %.0f s", step, smoothed, time.monotonic() - started)
    with torch.no_grad():
        for parameter, average in zip(parameters, averages, strict=True):
            parameter.copy_(average)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    return tokenizer(captions, padding="max_length", max_length=77, return_tensors="pt").input_ids


def save(folder: Path, vae: AutoencoderKL, unet: UNet2DConditionModel, conditioner: Conditioner) -> None:
    """Write the model as a diffusers folder in half precision."""
    tokenizers = [CLIPTokenizer.from_pretrained(folder / n) for n in ("tokenizer", "tokenizer_2")]
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=conditioner.small,
        text_encoder_2=conditioner.large,
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading"
        ),
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    pipeline.save_config(folder)
    for name in ("vae", "text_encoder", "text_encoder_2", "unet"):
        getattr(pipeline, name).half().save_pretrained(folder / name, safe_serialization=True)
    pipeline.scheduler.save_pretrained(folder / "scheduler")


def load_start(folder: Path) -> tuple[AutoencoderKL, Conditioner, UNet2DConditionModel]:
    """The networks of an earlier run, in single precision."""
    conditioner = Conditioner()
    conditioner.small = CLIPTextModel.from_pretrained(folder / "text_encoder").float()
    conditioner.large = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2").float()
    vae = AutoencoderKL.from_pretrained(folder / "vae").float()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").float()
    return vae, conditioner, unet.train()


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--merges", type=Path, required=True, help="bpe_simple_vocab_16e6.txt.gz of CLIP")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "tiny_sdxl")
    parser.add_argument("--start", type=Path, help="go on from this model")
    parser.add_argument("--autoencoder-steps", type=int, default=2500)
    parser.add_argument("--decoder-steps", type=int, default=800)
    parser.add_argument("--denoiser-steps", type=int, default=6000)
    parser.add_argument("--denoiser-rate", type=float, default=DENOISER_RATE)
    parser.add_argument("--pictures", type=int, default=12000)
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    write_tokenizer(options.merges, options.out / "tokenizer", pad_token="<|endoftext|>")
    write_tokenizer(options.merges, options.out / "tokenizer_2", pad_token="!")

    rng = random.Random(3)
    scenes = [random_scene(rng) for _ in range(options.pictures)]
    pictures = torch.stack([to_pixels(draw_scene(scene, SIDE, rng)) for scene in scenes])
    if options.start:
        vae, conditioner, unet = load_start(options.start)
    else:
        vae, conditioner, unet = new_autoencoder(), Conditioner(), new_denoiser(context=16 + 24, pooled=24)
        train_autoencoder(vae, options.autoencoder_steps)
        scale_latents(vae, pictures[:500])
    if options.decoder_steps:
        train_decoder(vae, pictures, options.decoder_steps)
    if options.denoiser_steps:
        with torch.no_grad():
            means = [vae.encode(chunk).latent_dist.mean for chunk in pictures.split(50)]
        conditioner.tokenizers = [
            CLIPTokenizer.from_pretrained(options.out / name) for name in ("tokenizer", "tokenizer_2")
        ]
        latents = torch.cat(means) * LATENT_SCALE
        train_denoiser(unet, conditioner, latents, scenes, options.denoiser_steps, options.denoiser_rate)
    save(options.out, vae.float(), unet, conditioner)


if __name__ == "__main__":
    main()
