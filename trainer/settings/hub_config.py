"""Settings of a dataset on the Hugging Face hub."""

import re
from dataclasses import dataclass

from .config_checks import between, refuse

MAX_NAME = 96
"""Characters in each half of a repository's name (huggingface_hub, utils/_validators.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    repository: str = ""
    """Dataset on the Hugging Face hub, as owner/name; fetched once, when the node runs. Diffusers:
    dataset_name."""
    config_name: str = ""
    """Which part (subset) of the dataset; empty = its only or default one. Diffusers: dataset_config_name."""
    split: str = "train"
    """Which split of the dataset; most have only 'train'."""
    image_column: str = ""
    """Column with the pictures; empty = the only one, or the one called 'image'. Diffusers: image_column."""
    caption_column: str = ""
    """Column with a caption, a list of captions or a class; empty = text, caption, prompt or the only text.
    Diffusers: caption_column."""
    revision: str = ""
    """Branch, tag or commit of the dataset; empty = the newest."""
    max_pictures: int = 0
    """Fetch only the first so many rows; 0 = all. Diffusers' max_train_samples draws by lot instead."""
    streaming: bool = False
    """Pull only the wanted pictures instead of whole files; for large datasets, with max_pictures."""

    def __post_init__(self) -> None:
        refuse(
            "hub dataset settings",
            [
                _repository_problem(self.repository),
                _plain("config_name", self.config_name, r"[^\x00-\x1f/\\]{0,200}"),
                _plain("split", self.split, r"\w+(\.\w+)*", "a plain name such as 'train'"),
                _plain("image_column", self.image_column, r"[^\x00-\x1f]{0,200}"),
                _plain("caption_column", self.caption_column, r"[^\x00-\x1f]{0,200}"),
                _revision_problem(self.revision),
                between("max_pictures", self.max_pictures, 0, 10_000_000),
            ],
        )


def _repository_problem(name: str) -> str:
    half = rf"[A-Za-z0-9](?:[\w.-]{{0,{MAX_NAME - 2}}}[A-Za-z0-9_])?"
    if re.fullmatch(f"{half}/{half}", name, re.ASCII) and not re.search(r"\.\.|--|\.git$", name):
        return ""
    return (
        f"repository is {name[:200]!r}, but must be the name of a dataset on the Hugging Face hub as "
        "owner/name, such as 'lambdalabs/naruto-blip-captions'; a folder of your own goes into Load Dataset"
    )


def _plain(name: str, value: str, pattern: str, wanted: str = "a plain name") -> str:
    return "" if re.fullmatch(pattern, value) else f"{name} is {value[:200]!r}, but must be {wanted}"


def _revision_problem(revision: str) -> str:
    sound = re.fullmatch(r"[\w./-]{0,200}", revision, re.ASCII) and ".." not in revision
    return "" if sound else f"revision is {revision!r}, but must be a branch, a tag or a commit"
