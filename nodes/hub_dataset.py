"""LoadHubDataset: a dataset of the Hugging Face hub, fetched once into the input folder, to train on."""

from typing import Any

from comfy_api.latest import io

from ..trainer.config import DatasetConfig
from ..trainer.settings.hub_config import HubConfig
from .comfy_bridge.hub_folder import hub_datasets_folder, shown_hub_folder
from .comfy_bridge.progress import report_progress
from .dataset_outputs import dataset_outputs, dataset_values
from .shown_folder import shown_as
from .widgets import CATEGORY, hidden_value, widget

# in the order in which they stand on the node; more may only be appended
HUB_FIELDS = (
    "repository",
    "config_name",
    "split",
    "image_column",
    "caption_column",
    "max_pictures",
    "streaming",
)
FIELDS = ("trigger", "resolution", "repeats", "crop", "flip")
ADVANCED = ("config_name", "split", "image_column", "caption_column", "streaming", "repeats")


class LoadHubDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        hub_widgets = [widget(HubConfig, name, name in ADVANCED) for name in HUB_FIELDS]
        own_widgets = [widget(DatasetConfig, name, name in ADVANCED) for name in FIELDS]
        return io.Schema(
            node_id="SDXLTrainer_LoadHubDataset",
            display_name="Load Hub Dataset",
            category=CATEGORY,
            description="A dataset of the Hugging Face hub to train on. It is fetched once, into a folder "
            "under ComfyUI's input folder, when the node runs; after that no network is needed.",
            hidden=[io.Hidden.unique_id],
            inputs=[*hub_widgets, *own_widgets],
            outputs=dataset_outputs(
                "Where the pictures came from and lie now, sizes, and what was left out."
            ),
        )

    @classmethod
    def fingerprint_inputs(cls, **fields: Any) -> str:
        from ..trainer.data.dataset import folder_state
        from ..trainer.hub.hub_dataset import hub_folder, hub_manifest

        hub_config, config = _configs(fields)
        folder = hub_folder(hub_config, hub_datasets_folder())
        if hub_manifest(folder) is None:
            return "not fetched"
        return folder_state(folder, config)

    @classmethod
    def execute(cls, **fields: Any) -> io.NodeOutput:
        from ..trainer.data.dataset import load_dataset
        from ..trainer.hub.hub_dataset import describe_hub_dataset, fetch_hub_dataset, hub_manifest

        hub_config, config = _configs(fields)
        place, node_id = hub_datasets_folder(), hidden_value(cls, "unique_id")
        with shown_as(place, shown_hub_folder(place)):
            folder = fetch_hub_dataset(
                hub_config,
                place,
                report_progress("fetching pictures", node_id),
                report_progress("downloading MB", node_id),
            )
            dataset = load_dataset(folder, config, report_progress("reading pictures", node_id))
            manifest = hub_manifest(folder)
        assert manifest is not None
        return dataset_values(dataset, describe_hub_dataset(manifest, shown_hub_folder(folder)))


def _configs(fields: dict[str, Any]) -> tuple[HubConfig, DatasetConfig]:
    hub_config = HubConfig(**{name: fields[name] for name in HUB_FIELDS})
    return hub_config, DatasetConfig(**{name: fields[name] for name in FIELDS})
