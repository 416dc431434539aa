"""Settings of a captioning model: how it chooses its words, and in which precision it works."""

from dataclasses import dataclass
from typing import Literal, get_args

from .config_checks import MAX_SEED, between, one_of, refuse
from .run_config import Precision

CaptionStyle = Literal["short", "detailed", "tags", "custom"]
"""What a caption is: one sentence, a paragraph, comma-separated tags, or the answer to a question."""

MAX_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationConfig:
    max_tokens: int = 120
    """Longest caption, tokens; 40 to 300; kohya: max_length. SDXL reads 75 tokens at a time."""
    min_tokens: int = 0
    """Shortest caption, tokens, 0 to 40; kohya: min_length. Too many make a model repeat itself."""
    temperature: float = 0.0
    """0 = always the most likely words; 0.3 to 1 draws them by the seed, the higher the wilder."""
    top_p: float = 0.9
    """Draw only from the likeliest words that make up this share, 0.7 to 1; kohya: top_p."""
    top_k: int = 0
    """Draw only from this many of the likeliest words, 20 to 100; 0 = all."""
    num_beams: int = 1
    """Captions tried side by side, 1 to 5: more is slower and a little better; kohya: num_beams."""
    repetition_penalty: float = 1.0
    """Above 1 words already used become less likely; 1 to 1.3."""
    tag_threshold: float = 0.35
    """Taggers only: tags with at least this probability, 0.25 to 0.5; kohya: thresh."""
    character_threshold: float = 0.85
    """Taggers only: as tag_threshold, for characters, 0.7 to 0.95; 1 = none; kohya: character_threshold."""
    seed: int = 42
    """Seed by which words are drawn when temperature is above 0; kohya: seed."""
    precision: Precision = "auto"
    """Number format of the model: auto = its own on a GPU, fp32 on the CPU."""

    def __post_init__(self) -> None:
        refuse(
            "captioner settings",
            [
                between("max_tokens", self.max_tokens, 1, MAX_TOKENS),
                between("min_tokens", self.min_tokens, 0, MAX_TOKENS),
                between("temperature", self.temperature, 0, 5),
                between("top_p", self.top_p, 0.01, 1),
                between("top_k", self.top_k, 0, 100_000),
                between("num_beams", self.num_beams, 1, 20),
                between("repetition_penalty", self.repetition_penalty, 0.5, 5),
                between("tag_threshold", self.tag_threshold, 0.01, 1),
                between("character_threshold", self.character_threshold, 0.01, 1),
                between("seed", self.seed, 0, MAX_SEED),
                one_of("precision", self.precision, get_args(Precision)),
                f"min_tokens is {self.min_tokens}, but must not be more than max_tokens, {self.max_tokens}"
                if self.min_tokens > self.max_tokens
                else "",
            ],
        )
