"""What stands around each node in the picture of its help page."""

from dataclasses import dataclass, field
from typing import Any

Wire = tuple[str, str, str]
"""(neighbour, its slot, the node's slot); the same neighbour named again is the same node."""

CHECKPOINT = "StandInLoader"  # shown as Load Checkpoint; a missing file would be framed in red
MODELS = tuple((CHECKPOINT, name.upper(), name) for name in ("model", "clip", "vae"))
TRAIN, PIVOTAL = "SDXLTrainer_TrainSDXLLoRA", "SDXLTrainer_PivotalTuning"
DATASET, DOCTOR = "SDXLTrainer_LoadDataset", "SDXLTrainer_DatasetDoctor"
SHEET, REPORT = ("PreviewImage", "images", "sheet"), ("PreviewAny", "source", "report")
SAMPLED = (("KSampler", "model", "model"), ("CLIPTextEncode", "clip", "clip"))


@dataclass(frozen=True)
class Scene:
    """A node as it is usually wired.

    Attributes:
        before: what is wired into it.
        after: what it is wired into.
        values: of its widgets, where others than the defaults show more.
        is_run: the graph is run first, so that the node shows what it shows then.
    """

    before: tuple[Wire, ...] = ()
    after: tuple[Wire, ...] = ()
    values: dict[str, Any] = field(default_factory=dict)
    is_run: bool = False


def _pictures(**values: Any) -> Scene:
    """A node that makes a dataset out of nothing."""
    return Scene((), ((DOCTOR, "dataset", "dataset"), SHEET, REPORT), values)


def _between(*others: Wire, before: tuple[Wire, ...] = (), **values: Any) -> Scene:
    """A node that takes a dataset and gives out another."""
    return Scene(((DATASET, "dataset", "dataset"), *before), ((TRAIN, "dataset", "dataset"), *others), values)


def _settings(section: str, *trainers: str, **values: Any) -> Scene:
    wires = tuple((trainer, f"{section}_settings", f"{section}_settings") for trainer in trainers or (TRAIN,))
    return Scene((), wires, values)


SCENES = {
    "LoadDataset": _pictures(folder="input/zorp", trigger="zorp"),
    "LoadHubDataset": _pictures(repository="owner/name", max_pictures=20, streaming=True, trigger="zorp"),
    "ImagesToDataset": Scene(
        (("LoadImage", "IMAGE", "images"), ("LoadImage", "MASK", "mask")),
        ((TRAIN, "dataset", "dataset"), SHEET, REPORT),
        {"trigger": "zorp"},
    ),
    "JoinDatasets": Scene(
        ((DATASET, "dataset", "dataset_1"), (f"{DATASET} ", "dataset", "dataset_2")),
        ((TRAIN, "dataset", "dataset"), REPORT),
    ),
    "CaptionImages": _between(
        SHEET,
        REPORT,
        before=(("SDXLTrainer_CaptionerSettings", "captioner_settings", "captioner_settings"),),
        strip_phrases="the image shows\nthis is",
    ),
    "CaptionerSettings": Scene(
        (), (("SDXLTrainer_CaptionImages", "captioner_settings", "captioner_settings"),)
    ),
    "CaptionVariants": _between(("PreviewAny", "source", "captions"), never_drop="", prefix=""),
    "AugmentDataset": _between(SHEET, ("PreviewAny", "source", "report")),
    "ClassImages": _between(SHEET, before=MODELS, class_prompt="a photo of a star"),
    "DatasetMasks": _between(SHEET, before=(("LoadImage", "MASK", "mask"),), source="mask"),
    "DatasetDoctor": _between(REPORT, SHEET, subject="object"),
    "TrainSDXLLoRA": Scene(
        (
            *MODELS,
            (DATASET, "dataset", "dataset"),
            ("SDXLTrainer_PreviewSettings", "preview_settings", "preview_settings"),
            ("SDXLTrainer_ValidationSettings", "validation_settings", "validation_settings"),
        ),
        (*SAMPLED, ("PreviewImage", "images", "samples"), REPORT),
        {"name": "my_zorp", "preset": "object", "steps": 60, "batch_size": 2, "learning_rate": 1e-3},
        is_run=True,
    ),
    "PivotalTuning": Scene(
        (
            *MODELS,
            (DATASET, "dataset", "dataset"),
            ("SDXLTrainer_PreviewSettings", "preview_settings", "preview_settings"),
        ),
        (*SAMPLED, REPORT, ("PreviewAny ", "source", "embedding")),
        {"name": "my_subject"},
    ),
    "ApplyLoRA": Scene(
        (*MODELS[:2], (TRAIN, "lora", "lora")), (*SAMPLED, ("PreviewAny", "source", "trigger_words"))
    ),
    "CompareLoRAs": Scene(
        (*MODELS, (TRAIN, "lora", "lora")),
        (("SaveImage", "images", "sheet"), REPORT),
        {"prompts": "a photo of zorp\nzorp on the moon\na photo of a cat", "strengths": "0, 1.0"},
    ),
    "AverageLoRAs": Scene(
        ((TRAIN, "lora", "lora"),),
        (("SDXLTrainer_ApplyLoRA", "lora", "lora"), REPORT),
        {"checkpoints": "400, 500, final"},
    ),
    "LoadTrainingSettings": Scene(
        (),
        tuple(
            (TRAIN, f"{name}_settings", f"{name}_settings")
            for name in ("lora", "optimizer", "schedule", "objective")
        ),
    ),
    "LoRASettings": _settings("lora"),
    "OptimizerSettings": _settings("optimizer"),
    "ScheduleSettings": _settings("schedule"),
    "ProdigySettings": _settings("prodigy"),
    "ObjectiveSettings": _settings("objective"),
    "NoiseSettings": _settings("noise"),
    "PriorSettings": _settings("prior"),
    "PreviewSettings": _settings("preview", prompts="a photo of zorp\nzorp on the moon", preview_every=200),
    "ValidationSettings": _settings("validation", validation_share=0.1, early_stop_patience=5),
    "RunSettings": _settings("run"),
    "LoggingSettings": _settings("logging"),
    "TextEncoderSettings": _settings("text_encoder", train_text_encoder="both", stop_fraction=0.5),
    "PivotalSettings": _settings("pivotal", PIVOTAL, initial_words="woman"),
}
