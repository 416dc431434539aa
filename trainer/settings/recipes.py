"""Starting points for a LoRA, as whole settings: four kinds of subject, and the recipes people know.

The four kinds (person, character, style, object) are published figures for SDXL, 8-100 pictures, batch 1
(ai-toolkit, kohya, OneTrainer, and the Hugging Face DreamBooth posts, which find faces best near 120 steps a
picture).

The others are the runs of four public guides, with the guides' own figures; where a guide is silent, its
tables or its script's default stand (diffusers 58eb52c, sd-scripts 48d368f). T, D, A are diffusers' scripts
train_text_to_image_lora_sdxl.py, train_dreambooth_lora_sdxl.py and train_dreambooth_lora_sdxl_advanced.py:
they train attention only, with alpha = rank, no caption dropout, and no min-SNR unless asked.

- tutorial: "How to Fine-tune SDXL using LoRA" (T): rank 4, batch 1, 1e-4 constant, no warm-up, 100 epochs,
  checkpoint every 500 steps, none deleted; 1024 pixels and mirrored pictures are the dataset's.
- old_book_style, green_chair: the examples of a guide to SDXL fine-tuning with the argument tables of T and D
  (script examples): batch 1, accumulation 4, 1e-4 constant, no warm-up, 10 epochs and a checkpoint every
  500 steps (T); 500 steps, prior preservation off (D). Rank 4 is T's and D's default. Both train the text
  encoders: T at the UNet's rate and weight decay, D at text_encoder_lr 5e-6 and weight decay 1e-3; the
  scripts leave out the encoders' feed-forward layers.
- huggy, web_style, face: "LoRA training scripts of the world, unite!" (A): Prodigy at 1.0, rank 32, min-SNR
  5, constant, no warm-up. Huggy: 31 pictures, 1000 steps, batch 4, bf16. Web pages: 27 pictures; of the
  versions found best (v4, v5, v6), v4: 1000 steps, batch 4, 2 repeats, min-SNR 5. Faces: 6-10 pictures, 120
  steps a picture (75 and 100 were tried too), 150 real class images; the post names no batch size for them.
  All by pivotal tuning: 2 new tokens, at the LoRA's own rate 1.0, in the first half of the run, while the
  LoRA trains too; their weight decay is then adam_weight_decay, 1e-4. A starts Prodigy once for all of it,
  here the tokens have one of their own.
- kohya_avatar: "Guide to SDXL Fine-Tuning with LoRA in Kohya-ss": 10 pictures x 20 repeats / batch 4 = 50
  steps an epoch, 20 epochs = 1000 steps; rank 64, alpha 32, 3e-4, bf16 for training and file, buckets, 1000
  class images. Kohya's standard LoRA trains attention and feed-forward, of the text encoders too, which have
  the one rate where text_encoder_lr is not given; min-SNR and dropout are off there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..config import (
    LoggingConfig,
    LoRAConfig,
    NoiseConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PivotalConfig,
    PreviewConfig,
    PriorConfig,
    ProdigyConfig,
    RunConfig,
    ScheduleConfig,
    TextEncoderConfig,
    ValidationConfig,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How long a recipe trains; one of the first three is set, the others are 0."""

    steps: int = 0
    epochs: int = 0
    steps_per_picture: int = 0
    """How often each picture is seen, at batch size 1; larger batches take fewer steps over as many."""
    also_tried: tuple[int, ...] = ()
    """Other steps a picture that the recipe names."""
    min_steps: int = 0
    max_steps: int = 0
    """Limits of the steps at batch size 1; 0 = none."""

    @property
    def summary(self) -> str:
        if self.steps:
            return f"{self.steps} steps"
        if self.epochs:
            return f"{self.epochs} epochs"
        limits = f" ({self.min_steps} to {self.max_steps})" if self.max_steps else ""
        return f"{self.steps_per_picture} steps a picture{limits}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Every section of a run's settings, how long it trains, and what else the recipe asks for."""

    length: Length
    batch_size: int = 1
    repeats: int = 1
    """How often an epoch shows each picture, where the dataset itself repeats none."""
    note: str = ""
    """What else belongs to the recipe: pictures, captions, class images."""
    needs: str = ""
    """Package that its optimizer comes from; not one of requirements.txt."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    prodigy: ProdigyConfig = field(default_factory=ProdigyConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    preview: PreviewConfig = field(default_factory=PreviewConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    run: RunConfig = field(default_factory=RunConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    pivotal: PivotalConfig = field(default_factory=PivotalConfig)
    """Acts where the user sets a token: the word in the captions is nobody else's to choose."""

    @property
    def summary(self) -> str:
        """The preset in one line, for tooltips."""
        alpha = f" alpha {self.lora.alpha:g}" if self.lora.alpha else ""
        name = "" if self.optimizer.optimizer == "adamw" else f"{self.optimizer.optimizer} "
        batch = f", batch {self.batch_size}" if self.batch_size > 1 else ""
        accumulation = self.run.gradient_accumulation
        return (
            f"rank {self.lora.rank}{alpha}, {self.lora.targets}, {name}learning rate "
            f"{self.optimizer.effective_learning_rate:g} {self.optimizer.lr_schedule.replace('_', ' ')}, "
            f"{self.length.summary}{batch}"
            + (f", accumulation {accumulation}" if accumulation > 1 else "")
            + (", text encoders too" if self.text_encoder.trained else "")
        )


def _both_encoders(rate: float, weight_decay: float) -> TextEncoderConfig:
    return TextEncoderConfig(
        train_text_encoder="both",
        clip_l_learning_rate=rate,
        clip_g_learning_rate=rate,
        weight_decay=weight_decay,
    )


_TOK = "with the word TOK in the captions (pivotal tuning)"

_WARM = OptimizerConfig(learning_rate=1e-4, lr_schedule="constant_with_warmup")
_COSINE = OptimizerConfig(learning_rate=1e-4, lr_schedule="cosine")
_SCRIPT_OPTIMIZER = OptimizerConfig(learning_rate=1e-4, lr_schedule="constant")
_PRODIGY = OptimizerConfig(optimizer="prodigy", learning_rate=1.0, lr_schedule="constant")
_SCRIPT_OBJECTIVE = ObjectiveConfig(min_snr_gamma=0.0, caption_dropout=0.0)
_SCRIPT_MIN_SNR = ObjectiveConfig(min_snr_gamma=5.0, caption_dropout=0.0)
_RANK_4 = LoRAConfig(rank=4, targets="attention")
_RANK_32 = LoRAConfig(rank=32, targets="attention")
_PIVOTAL = PivotalConfig(
    ti_fraction=0.5, new_tokens="2", optimizer="same", weight_decay=1e-4, train_first="tokens+lora"
)
_BF16 = RunConfig(precision="bf16")

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "person": Preset(
            lora=LoRAConfig(rank=16),
            optimizer=_WARM,
            length=Length(steps_per_picture=110, min_steps=600, max_steps=2500),
        ),
        "character": Preset(
            lora=LoRAConfig(rank=16),
            optimizer=_COSINE,
            length=Length(steps_per_picture=90, min_steps=1000, max_steps=3000),
        ),
        "style": Preset(
            lora=LoRAConfig(rank=32),
            optimizer=_COSINE,
            length=Length(steps_per_picture=50, min_steps=1000, max_steps=4000),
        ),
        "object": Preset(
            lora=LoRAConfig(rank=16),
            optimizer=_WARM,
            length=Length(steps_per_picture=90, min_steps=600, max_steps=2000),
        ),
        "tutorial": Preset(
            lora=_RANK_4,
            optimizer=_SCRIPT_OPTIMIZER,
            objective=_SCRIPT_OBJECTIVE,
            run=RunConfig(save_every=500, keep_last=0),
            length=Length(epochs=100),
            note="Load Dataset: resolution 1024, flip on, a caption for each picture.",
        ),
        "old_book_style": Preset(
            lora=_RANK_4,
            optimizer=_SCRIPT_OPTIMIZER,
            objective=_SCRIPT_OBJECTIVE,
            run=RunConfig(save_every=500, keep_last=0, gradient_accumulation=4),
            text_encoder=_both_encoders(1e-4, weight_decay=0.01),
            length=Length(epochs=10),
            note="Load Dataset: resolution 1024, crop center, flip on.",
        ),
        "green_chair": Preset(
            lora=_RANK_4,
            optimizer=_SCRIPT_OPTIMIZER,
            objective=_SCRIPT_OBJECTIVE,
            prior=PriorConfig(prior_preservation="off"),
            run=RunConfig(save_every=500, keep_last=0, gradient_accumulation=4),
            text_encoder=_both_encoders(5e-6, weight_decay=0.001),
            length=Length(steps=500),
            note="Load Dataset: resolution 1024, prompt 'a photo of sks chair'.",
        ),
        "huggy": Preset(
            lora=_RANK_32,
            optimizer=_PRODIGY,
            objective=_SCRIPT_MIN_SNR,
            pivotal=_PIVOTAL,
            run=_BF16,
            length=Length(steps=1000),
            batch_size=4,
            note=f"Made for 31 pictures with captions of their own, {_TOK}.",
            needs="prodigyopt",
        ),
        "web_style": Preset(
            lora=_RANK_32,
            optimizer=_PRODIGY,
            objective=_SCRIPT_MIN_SNR,
            pivotal=_PIVOTAL,
            run=_BF16,
            length=Length(steps=1000),
            batch_size=4,
            repeats=2,
            note=f"Made for 27 pictures of one style, {_TOK}.",
            needs="prodigyopt",
        ),
        "face": Preset(
            lora=_RANK_32,
            optimizer=_PRODIGY,
            objective=_SCRIPT_MIN_SNR,
            pivotal=_PIVOTAL,
            length=Length(steps_per_picture=120, also_tried=(75, 100)),
            note=f"Made for 6-10 good pictures, {_TOK}, and 150 real class images: Class Images.",
            needs="prodigyopt",
        ),
        "kohya_avatar": Preset(
            lora=LoRAConfig(rank=64, alpha=32.0),
            optimizer=OptimizerConfig(learning_rate=3e-4, lr_schedule="constant"),
            objective=_SCRIPT_OBJECTIVE,
            run=RunConfig(precision="bf16", save_precision="bf16"),
            text_encoder=_both_encoders(3e-4, weight_decay=0.01),
            length=Length(epochs=20),
            batch_size=4,
            repeats=20,
            note="Load Dataset: resolution 1024; with 1000 class images: Class Images.",
        ),
    }
)
