"""A captioner that names the colour of a picture: small, but real weights that are moved and asked."""

import numpy as np
import torch

NAMES = ("red", "green", "blue", "yellow", "white", "black")
COLORS = ((255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255), (0, 0, 0))


class ColorCaptioner:
    """Says "The image shows a <colour> square." and counts how often it is asked."""

    identity = "colors-1"
    styles = ("short", "custom")

    def __init__(self, stop_at=10**9):
        self.module = torch.nn.Linear(3, len(NAMES)).requires_grad_(False)
        colors = torch.tensor(COLORS, dtype=torch.float32) / 255
        # the nearest colour has the largest of c.x - |c|^2 / 2
        self.module.weight.data, self.module.bias.data = colors, -(colors**2).sum(1) / 2
        self.asked = []
        self.stop_at = stop_at

    def refusal(self, style, question):
        return "" if style in self.styles else f"it cannot write captions of the style '{style}'"

    def caption(self, picture, style, question, config):
        assert picture.mode == "RGB"
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        self.asked.append(question)
        mean = torch.from_numpy(np.array(picture, dtype=np.float32)).mean((0, 1)) / 255
        name = NAMES[int(self.module(mean.to(self.module.weight.device)).argmax())]
        return f"{question} {name}" if question else f"The image shows a {name} square."
