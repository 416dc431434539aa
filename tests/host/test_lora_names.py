"""Our names against the map of every ComfyUI found here, asked in its own Python."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from sdxl_trainer.trainer.adapter.lora import TARGET_NAMES
from sdxl_trainer.trainer.files.lora_names import to_kohya_names

pytestmark = pytest.mark.host

COMFYUI_MAP = """
import json, sys
sys.path.insert(0, sys.argv[1])
sys.argv = ["main.py", "--cpu"]
import comfy.utils
config = {
    "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10,
}
print(json.dumps(comfy.utils.unet_to_diffusers(config)))
"""


def comfyui_folders():
    named = [Path(x) for x in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if x]
    found = named or sorted(Path.home().joinpath("comfy").glob("ComfyUI*"))
    return [folder for folder in found if (folder / "comfy" / "utils.py").is_file()]


def python_of(folder):
    place = folder / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    return str(place) if place.exists() else sys.executable


@pytest.mark.parametrize("folder", comfyui_folders(), ids=lambda folder: folder.name)
def test_names_are_those_comfyui_looks_up(folder):
    answer = subprocess.run(
        [python_of(folder), "-c", COMFYUI_MAP, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert answer.returncode == 0, answer.stderr
    comfyui = json.loads(answer.stdout.splitlines()[-1])
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(32, 32, 32),
            layers_per_block=2,
            cross_attention_dim=8,
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2, 10),
        )
    for targets, num_layers in (("attention+ff", 722), ("attention+ff+conv", None)):
        endings = tuple(f".{name}" for name in TARGET_NAMES[targets])
        paths = [path for path, _ in unet.named_modules() if path.endswith(endings)]
        assert num_layers in (None, len(paths))
        for path, name in to_kohya_names(paths).items():
            expected = comfyui[f"{path}.weight"].removesuffix(".weight").replace(".", "_")
            assert name == f"lora_unet_{expected}"
