"""Settings of the variants of captions that are made before a run."""

from dataclasses import dataclass

from .config_checks import MAX_SEED, between, refuse

TITLE = "caption variants"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionVariantsConfig:
    shuffle: bool = True
    """Give the tags behind the kept ones another order in each variant; kohya: shuffle_caption."""
    keep_tags: int = 1
    """So many tags in front are never moved or dropped: 1 for a trigger of one tag; kohya: keep_tokens."""
    keep_separator: str = ""
    """A mark such as |||: what stands before it is kept, in place of keep_tags, and the mark itself goes; a
    second one keeps what follows it as well. "" = none; kohya: keep_tokens_separator."""
    tag_dropout: float = 0.0
    """Share of the tags behind the kept ones that a variant leaves out, 0 to 0.2; never the trigger; kohya:
    caption_tag_dropout_rate."""
    never_drop: str = ""
    """Words whose tags are never left out, with commas between, such as the token of Pivotal Tuning: TOK."""
    wildcards: bool = False
    """Put one of the choices for {red|blue}, which may be empty or hold others; {{ and }} are plain braces;
    kohya: enable_wildcard."""
    prefix: str = ""
    """Text put in front of every caption, its trigger included, with a space; kohya: caption_prefix."""
    suffix: str = ""
    """Text put behind every caption, with a space; kohya: caption_suffix."""
    separator: str = ","
    """What stands between tags in the captions; they are joined by ", "; kohya: caption_separator."""
    secondary_separator: str = ""
    """A mark such as ;;; between tags that stay together as one, replaced by the separator in the end;
    kohya: secondary_separator."""
    num_variants: int = 8
    """Variants of each caption, drawn before training, 4 to 16: each costs 310 KiB of memory in half
    precision for every 75 tokens."""
    seed: int = 42
    """Decides which variants are drawn."""

    def __post_init__(self) -> None:
        refuse(
            TITLE,
            [
                between("keep_tags", self.keep_tags, 0, 1000),
                between("tag_dropout", self.tag_dropout, 0, 1),
                between("num_variants", self.num_variants, 1, 256),
                between("seed", self.seed, 0, MAX_SEED),
                *self._mark_problems(),
            ],
        )

    def _mark_problems(self) -> list[str]:
        mark = self.separator.strip()
        if not mark:
            return ["separator is empty, but must be what stands between tags (',')"]
        others = {"keep_separator": self.keep_separator, "secondary_separator": self.secondary_separator}
        problems = [
            f"{name} is '{other}', which holds the separator '{mark}': choose a mark without it"
            for name, other in others.items()
            if mark in other
        ]
        if self.keep_separator.strip() and self.keep_separator.strip() == self.secondary_separator.strip():
            problems.append(f"keep_separator and secondary_separator are both '{self.keep_separator}'")
        return problems
