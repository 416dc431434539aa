"""The table of contents that ComfyUI reads: which nodes there are."""

from comfy_api.latest import ComfyExtension, io

from .apply import ApplyLoRA
from .augment_dataset import AugmentDataset
from .average import AverageLoRAs
from .browser.registration import register_routes
from .caption_images import CaptionImages
from .caption_variants import CaptionVariants
from .captioner_settings import CaptionerSettings
from .class_images import ClassImages
from .compare import CompareLoRAs
from .dataset import LoadDataset
from .dataset_doctor import DatasetDoctor
from .dataset_masks import DatasetMasks
from .hub_dataset import LoadHubDataset
from .images_to_dataset import ImagesToDataset
from .join_datasets import JoinDatasets
from .load_settings import LoadTrainingSettings
from .pivotal import PivotalTuning
from .settings import (
    LoggingSettings,
    LoRASettings,
    NoiseSettings,
    ObjectiveSettings,
    OptimizerSettings,
    PivotalSettings,
    PreviewSettings,
    PriorSettings,
    ProdigySettings,
    RunSettings,
    ScheduleSettings,
    TextEncoderSettings,
    ValidationSettings,
)
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
    ClassImages,
    DatasetMasks,
    JoinDatasets,
    ScheduleSettings,
    ProdigySettings,
    NoiseSettings,
    PriorSettings,
    ValidationSettings,
    LoggingSettings,
    LoadTrainingSettings,
    CompareLoRAs,
    AverageLoRAs,
    PivotalTuning,
    TextEncoderSettings,
    PivotalSettings,
    AugmentDataset,
    CaptionVariants,
    ImagesToDataset,
    DatasetDoctor,
    CaptionImages,
    CaptionerSettings,
    LoadHubDataset,
]


class SDXLTrainerExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # in on_load, whose place this would be, nothing happens in ComfyUI 0.3.64: it is never called
        register_routes()
        return NODES
