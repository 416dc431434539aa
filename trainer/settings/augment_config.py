"""Settings of augmentation: how far the variants of a picture may differ from it."""

from dataclasses import dataclass

from .config_checks import MAX_SEED, between, refuse

MAX_VARIANTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    variants_per_picture: int = 4
    """How many variants each picture is seen in, 2 to 8; each costs a pass of the VAE before training."""
    keep_original: bool = True
    """The first variant of each picture is the picture as it is; off: every one is changed."""
    flip: float = 0.0
    """Share of variants that are mirrored, 0.5 or 0; kohya: flip_aug is 0.5. Not for faces or text."""
    crop_jitter: float = 0.05
    """Magnify by up to this much and crop at a random place, 0.03 to 0.1; kohya: random_crop."""
    rotation: float = 0.0
    """Turn by up to so many degrees to either side, 2 to 10; magnifies so that no corner is empty."""
    brightness: float = 0.0
    """Greatest relative change, 0.05 to 0.2. On small sets, wrong colours are learned with it."""
    contrast: float = 0.0
    """Greatest relative change, 0.05 to 0.2. On small sets, wrong colours are learned with it."""
    saturation: float = 0.0
    """Greatest relative change, 0.05 to 0.2. On small sets, wrong colours are learned with it."""
    hue: float = 0.0
    """Greatest part of a turn of the colour wheel, 0.01 to 0.03; kohya: color_aug. Skin and logos suffer."""
    seed: int = 42
    """Seed of every random draw; a picture gets the same variants whatever else is in the dataset."""

    def __post_init__(self) -> None:
        refuse(
            "augmentation settings",
            [
                between("variants_per_picture", self.variants_per_picture, 1, MAX_VARIANTS),
                between("flip", self.flip, 0, 1),
                between("crop_jitter", self.crop_jitter, 0, 0.5),
                between("rotation", self.rotation, 0, 45),
                *(
                    between(name, getattr(self, name), 0, 0.9)
                    for name in ("brightness", "contrast", "saturation")
                ),
                between("hue", self.hue, 0, 0.5),
                between("seed", self.seed, 0, MAX_SEED),
            ],
        )
