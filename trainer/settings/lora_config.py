"""Settings of the adapter: what is trained beside the frozen UNet."""

import math
import re
from dataclasses import dataclass
from typing import Literal, get_args

from .config_checks import between, one_of, refuse

Targets = Literal["attention", "attention+ff", "attention+ff+conv"]
AdapterKind = Literal["lora", "dora", "loha", "lokr"]
Blocks = Literal["all", "style", "content", "style+content"]


RANK_STABILIZED_ALPHA = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRAConfig:
    rank: int = 16
    """Size of the update matrices; kohya: network_dim. 8-32 for most, 4 small, 64 large."""
    alpha: float = 0.0
    """The update is scaled by alpha / rank; kohya: network_alpha. 0 = same as rank; 4 for rsLoRA."""
    targets: Targets = "attention+ff"
    """Which layers get an update: 560, 722 or 788 of SDXL's; kohya's default is attention+ff."""
    adapter: AdapterKind = "lora"
    """Form of the update: lora; dora also learns lengths (arXiv 2402.09353); loha, lokr: LyCORIS' algo."""
    rank_stabilized: bool = False
    """rsLoRA: scale by alpha / sqrt(rank), so that high ranks learn as fast (arXiv 2312.03732)."""
    dropout: float = 0.0
    """Share of a lora's inner values left out in each step, 0 to 0.3; kohya: network_dropout."""
    rank_dropout: float = 0.0
    """Share of the update's ranks left out in each step, 0.1 to 0.3; kohya: rank_dropout."""
    module_dropout: float = 0.0
    """Share of layers without their update in each step, 0.1 to 0.3; kohya: module_dropout."""
    blocks: Blocks = "all"
    """Part of the UNet that learns: style or content blocks alone keep the other (arXiv 2403.14572)."""
    block_ranks: str = ""
    """Ranks of single blocks, 0 = none, as "input_blocks.4=8, middle_block=0"; kohya: block_dims."""
    lokr_factor: int = 8
    """Size of LoKr's small matrix, 4 to 16; -1 = as square as can be; LyCORIS: factor."""

    def __post_init__(self) -> None:
        refuse(
            "LoRA settings",
            [
                between("rank", self.rank, 1, 1024),
                between("alpha", self.alpha, 0, 4096),
                one_of("targets", self.targets, get_args(Targets)),
                one_of("adapter", self.adapter, get_args(AdapterKind)),
                between("dropout", self.dropout, 0, 0.9),
                between("rank_dropout", self.rank_dropout, 0, 0.9),
                between("module_dropout", self.module_dropout, 0, 0.9),
                one_of("blocks", self.blocks, get_args(Blocks)),
                between("lokr_factor", self.lokr_factor, -1, 1024),
                "lokr_factor is 0, but must be -1 or at least 1" if self.lokr_factor == 0 else "",
                self._dropout_problem(),
                *_block_rank_problems(self.block_ranks),
            ],
        )

    def _dropout_problem(self) -> str:
        if not self.dropout or self.adapter == "lora":
            return ""
        return (
            f"dropout is {self.dropout:g}, but adapter {self.adapter} has no inner values to leave out: set "
            "dropout to 0 and use rank_dropout or module_dropout, or set adapter to lora"
        )

    @property
    def effective_alpha(self) -> float:
        if self.rank_stabilized:
            # rsLoRA's alpha does not grow with the rank; with this one rank 16 has scale 1, as without
            return self.alpha or RANK_STABILIZED_ALPHA
        return self.alpha or float(self.rank)

    @property
    def scale(self) -> float:
        """What every update is multiplied with: alpha / rank, or alpha / sqrt(rank) for rsLoRA."""
        return self.effective_alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)

    def file_alpha(self, rank: int) -> float:
        """The alpha that a file needs for a layer of `rank`: readers scale by alpha / rank of the layer."""
        if self.rank_stabilized:
            return self.effective_alpha * rank / math.sqrt(self.rank)
        return self.effective_alpha * rank / self.rank


_MAX_RANK = 1024


def parse_block_ranks(text: str) -> dict[str, int]:
    """Rank by prefix of the original UNet's paths, of a text such as `input_blocks.4=8, middle_block=0`.

    Entries are separated by commas or line breaks. The text must be one that `LoRAConfig` accepts.
    """
    return {prefix.strip(): int(rank) for prefix, _, rank in (e.partition("=") for e in _entries(text))}


def _entries(text: str) -> list[str]:
    return [entry.strip() for entry in re.split(r"[,\n]", text) if entry.strip()]


def _block_rank_problems(text: str) -> list[str]:
    problems, seen = [], set()
    for entry in _entries(text):
        prefix, _, rank = (part.strip() for part in entry.partition("="))
        if not prefix or not re.fullmatch(r"\d{1,5}", rank) or int(rank) > _MAX_RANK:
            problems.append(
                f"block_ranks has '{entry}', but must hold entries such as input_blocks.4=8 with a whole "
                f"number from 0 to {_MAX_RANK}"
            )
        elif prefix in seen:
            problems.append(f"block_ranks names {prefix} twice")
        seen.add(prefix)
    return problems
