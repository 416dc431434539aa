"""The table of contents that ComfyUI reads: which nodes there are."""

from comfy_api.latest import ComfyExtension, io

from .apply import ApplyLoRA
from .dataset import LoadDataset
from .settings import LoRASettings, ObjectiveSettings, OptimizerSettings, PreviewSettings, RunSettings
from .train import TrainSDXLLoRA

NODES: list[type[io.ComfyNode]] = [
    LoadDataset,
    TrainSDXLLoRA,
    ApplyLoRA,
    LoRASettings,
    OptimizerSettings,
    ObjectiveSettings,
    PreviewSettings,
    RunSettings,
]


class SDXLTrainerExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
