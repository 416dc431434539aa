"""Augmentation: what is changed about a picture's look beside its crop and its side.

This file knows nothing of training sets, so that reading pixels may use it; sets are augmented elsewhere.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How a crop is turned and coloured.

    `rotation` in degrees, counter-clockwise, about the centre of the crop. `brightness`, `contrast` and
    `saturation` are factors, 1 = as it is; `hue` turns the colour wheel, -0.5 to 0.5 of a full turn.
    """

    rotation: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
