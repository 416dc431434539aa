"""Write a full-size SDXL checkpoint of random weights: random_sdxl.py COMFYUI_FOLDER FILE.

Run with the Python of that ComfyUI. The keys come from ComfyUI's own classes, so CheckpointLoaderSimple
loads the file as it would load SDXL base; weights have std 0.5 / sqrt(fan_in), fp16, 7 GB.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

SDXL_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
    "num_heads": -1,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
    "use_temporal_attention": False,
    "use_spatial_transformer": True,
    "legacy": False,
    "dtype": torch.float16,
}
SDXL_AUTOENCODER = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def randomise(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Fill matrices with normal numbers of std 0.5 / sqrt(fan_in), biases with 0, norms with 1."""
    for name, parameter in module.named_parameters():
        if parameter.ndim >= 2:
            deviation = 0.5 * parameter[0].numel() ** -0.5
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(drawn.mul_(deviation))
        else:
            parameter.data.fill_(0.0 if name.endswith("bias") else 1.0)


def write_checkpoint(path: Path) -> None:
    """Write the checkpoint; ComfyUI must be importable.

    The host's modules are imported here, because its arguments must be set before.
    """
    import comfy.supported_models
    import comfy.utils
    from comfy import sdxl_clip
    from comfy.ldm.models.autoencoder import AutoencoderKL

    generator = torch.Generator().manual_seed(0)
    family = comfy.supported_models.SDXL(dict(SDXL_UNET))
    family.set_inference_dtype(torch.float16, None)
    denoiser = family.get_model({}, "", device="cpu").diffusion_model
    text = sdxl_clip.SDXLClipModel(device="cpu", dtype=torch.float16)
    autoencoder = AutoencoderKL(ddconfig=SDXL_AUTOENCODER, embed_dim=4).half()
    for module in (denoiser, text, autoencoder):
        randomise(module, generator)

    weights = family.process_unet_state_dict_for_saving(denoiser.state_dict())
    weights |= family.process_clip_state_dict_for_saving(dict(text.state_dict()))
    weights |= family.process_vae_state_dict_for_saving(autoencoder.state_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    comfy.utils.save_torch_file({name: weight.contiguous() for name, weight in weights.items()}, str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comfyui", type=Path)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    sys.path.insert(0, str(options.comfyui))
    sys.argv = [sys.argv[0], "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    started = time.monotonic()
    with torch.no_grad():
        write_checkpoint(options.file)
    gigabytes, seconds = options.file.stat().st_size / 1e9, time.monotonic() - started
    print(f"{options.file.name}: {gigabytes:.1f} GB in {seconds:.0f} s")


if __name__ == "__main__":
    main()
