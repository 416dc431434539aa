"""Settings of what is trained of the two text encoders: a LoRA on them, and new tokens for them."""

from dataclasses import dataclass
from typing import Literal, get_args

from .config_checks import between, one_of, refuse
from .optimizer_config import OptimizerName

ENCODERS = ("clip_l", "clip_g")
"""SDXL's two, as ComfyUI and the files of embeddings name them."""

TrainedEncoders = Literal["off", "both", "clip_l", "clip_g"]
TokenOptimizer = Literal[
    "same", "adamw", "adamw8bit", "prodigy", "prodigy_plus_schedule_free", "adafactor", "lion", "sgd"
]
TrainFirst = Literal["tokens", "tokens+lora"]

assert get_args(TokenOptimizer) == ("same", *get_args(OptimizerName))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderConfig:
    train_text_encoder: TrainedEncoders = "off"
    """Text encoders that get a LoRA: CLIP-L, the larger CLIP-G, both; kohya: network_train_unet_only off."""
    clip_l_learning_rate: float = 0.0
    """Peak rate of CLIP-L, 1e-5 to 1e-4 for AdamW; 0 = half of the UNet's; kohya: text_encoder_lr1."""
    clip_g_learning_rate: float = 0.0
    """Peak rate of CLIP-G, 1e-5 to 1e-4 for AdamW; 0 = half of the UNet's; kohya: text_encoder_lr2."""
    weight_decay: float = 0.001
    """Pull of the text encoders' weights towards 0 at each step, times the learning rate, 0 to 0.01;
    diffusers: adam_weight_decay_text_encoder."""
    stop_fraction: float = 1.0
    """Part of the run after which the text encoders stay as they are, 0.3 to 1; diffusers:
    train_text_encoder_frac."""
    text_encoder_rank: int = 0
    """Size of the text encoders' update matrices, 4 to 32; 0 = the LoRA's rank. Their scale is the LoRA's."""

    def __post_init__(self) -> None:
        refuse(
            "text encoder settings",
            [
                one_of("train_text_encoder", self.train_text_encoder, get_args(TrainedEncoders)),
                _rate("clip_l_learning_rate", self.clip_l_learning_rate),
                _rate("clip_g_learning_rate", self.clip_g_learning_rate),
                between("weight_decay", self.weight_decay, 0, 1),
                between("stop_fraction", self.stop_fraction, 0.0001, 1),
                between("text_encoder_rank", self.text_encoder_rank, 0, 1024),
            ],
        )

    @property
    def trained(self) -> tuple[str, ...]:
        """Which of "clip_l" and "clip_g" get a LoRA."""
        names = {"off": (), "both": ENCODERS}
        return names.get(self.train_text_encoder, (self.train_text_encoder,))


@dataclass(frozen=True, slots=True, kw_only=True)
class PivotalConfig:
    """New tokens learned first, the LoRA around them: pivotal tuning, the recipe of cog-sdxl."""

    token: str = ""
    """Word in captions and prompts that new tokens stand for, such as TOK; several: TOK, OHWX; "" = none."""
    new_tokens: str = "2"
    """How many new tokens each word stands for, 1 to 8; one number, or one for each word: 2, 4."""
    initial_words: str = ""
    """Known words the new tokens start as, one entry for each word of token: woman, sketch; "" = random."""
    ti_fraction: float = 0.5
    """Part of the run that trains the tokens, 0.3 to 0.6; then the LoRA. 1 = tokens only; diffusers:
    train_text_encoder_ti_frac."""
    learning_rate: float = 0.0
    """Peak rate of the tokens, 1e-4 to 1e-3 for AdamW; 0 = usual: 3e-4, 1 for Prodigy."""
    optimizer: TokenOptimizer = "adamw"
    """Rule of the tokens' update; same = the LoRA's."""
    weight_decay: float = 0.0
    """Pull of the tokens towards 0 at each step, times the learning rate, 0 to 0.001."""
    norm_pull: float = 0.1
    """Share by which each step brings a token's length back to that of real ones, 0 to 1; cog-sdxl: 0.1."""
    train_first: TrainFirst = "tokens"
    """What trains up to the pivot: the tokens alone, or the LoRA as well, as the diffusers script does."""
    add_token: bool = False
    """Put the first word of token in front of captions that hold none of them."""
    bundle: bool = False
    """Write the tokens into the LoRA file, too: one file for Apply LoRA and A1111."""

    def __post_init__(self) -> None:
        refuse(
            "pivotal settings",
            [
                between("ti_fraction", self.ti_fraction, 0.0001, 1),
                _rate("learning_rate", self.learning_rate),
                one_of("optimizer", self.optimizer, get_args(TokenOptimizer)),
                between("weight_decay", self.weight_decay, 0, 1),
                between("norm_pull", self.norm_pull, 0, 1),
                one_of("train_first", self.train_first, get_args(TrainFirst)),
            ],
        )

    @property
    def is_on(self) -> bool:
        return bool(self.token.strip())


def _rate(name: str, value: float) -> str:
    """A problem, or ""; 0 stands for the usual rate."""
    return "" if value == 0 else between(name, value, 1e-9, 10.0)
