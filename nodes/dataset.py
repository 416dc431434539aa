"""LoadDataset: a folder of pictures under ComfyUI's own folders becomes a dataset to train on."""

from typing import Any

from comfy_api.latest import io

from ..trainer.config import DatasetConfig
from .comfy_bridge.folders import dataset_choices, dataset_folder
from .comfy_bridge.progress import report_progress
from .dataset_outputs import dataset_outputs, dataset_values
from .shown_folder import shown_as
from .widgets import CATEGORY, hidden_value, widget

# in the order in which they stand on the node; more may only be appended
FIELDS = (
    "trigger",
    "prompt",
    "resolution",
    "repeats",
    "crop",
    "flip",
    "upscale",
    "max_train_samples",
    "caption_column",
    "background",
    "bucket_step",
)
ADVANCED = ("upscale", "max_train_samples", "caption_column", "background", "bucket_step")


class LoadDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        choices = dataset_choices()
        folder = io.Combo.Input(
            "folder",
            options=choices,
            default=choices[0],
            tooltip="Folder of pictures under ComfyUI's input folder, or one that extra_model_paths.yaml "
            "names as 'datasets', or one in that; press R after adding one. Kohya: train_data_dir.",
        )
        return io.Schema(
            node_id="SDXLTrainer_LoadDataset",
            display_name="Load Dataset",
            category=CATEGORY,
            description="Pictures and captions to train on: .txt or .caption files beside the pictures, "
            "metadata.jsonl or .csv, kohya folders (10_cat), or plain pictures with one prompt.",
            hidden=[io.Hidden.unique_id],
            inputs=[folder, *(widget(DatasetConfig, name, name in ADVANCED) for name in FIELDS)],
            outputs=dataset_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **fields: Any) -> str:
        from ..trainer.data.dataset import folder_state

        return folder_state(dataset_folder(folder), DatasetConfig(**fields))

    @classmethod
    def execute(cls, folder: str, **fields: Any) -> io.NodeOutput:
        from ..trainer.data.dataset import load_dataset

        config = DatasetConfig(**fields)
        root = dataset_folder(folder)
        progress = report_progress("reading pictures", hidden_value(cls, "unique_id"))
        with shown_as(root, folder):
            return dataset_values(load_dataset(root, config, progress))
