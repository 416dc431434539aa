"""The README.md that stands beside a LoRA on the Hugging Face hub."""

import json
from collections.abc import Mapping, Sequence

from ..config import TrainConfig
from ..data.dataset import TrainingSet
from ..files.embedding_file import EMBEDDING_KEY
from ..text.new_tokens import FIRST_ID, NewTokens
from .run_report import RunOutcome, describe_arithmetic

BASE_MODEL = "stabilityai/stable-diffusion-xl-base-1.0"
"""The family; the checkpoint that was trained on is a file name, and no repository is known for it."""
TAGS = ("text-to-image", "stable-diffusion-xl", "lora", "diffusers", "template:sd-lora")
DIFFUSERS_LOADS = ("lora",)
TRIGGER_KEY = "modelspec.trigger_phrase"


def model_card(
    config: TrainConfig,
    dataset: TrainingSet,
    outcome: RunOutcome,
    metadata: Mapping[str, str],
    pictures: Sequence[tuple[str, str]],
) -> str:
    """A model card in Markdown with the hub's front matter; the licence is for its owner to choose.

    Args:
        config: of the run.
        dataset: what was trained on; only counts and trigger words are told.
        outcome: of the run.
        metadata: of the LoRA file.
        pictures: (path in the repository, prompt) of each sample.
    """
    parts = [
        _front_matter(metadata.get(TRIGGER_KEY, ""), pictures),
        f"# {config.name}\n\nA {_kind(config)} for Stable Diffusion XL, trained on "
        f"`{outcome.model_title}` with SDXL Trainer for ComfyUI.",
        _usage(config, outcome, metadata),
        _pictures(pictures),
        _settings(config, dataset, outcome),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _kind(config: TrainConfig) -> str:
    return {"lora": "LoRA", "dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}[config.lora.adapter]


def _front_matter(trigger: str, pictures: Sequence[tuple[str, str]]) -> str:
    lines = [
        f"base_model: {BASE_MODEL}",
        "base_model_relation: adapter",
        "library_name: diffusers",
        "pipeline_tag: text-to-image",
        "tags:",
        *(f"- {tag}" for tag in TAGS),
    ]
    if trigger:
        lines.append(f"instance_prompt: {_quoted(trigger)}")
    if pictures:
        lines.append("widget:")
        for path, prompt in pictures:
            lines += [f"- text: {_quoted(prompt)}", "  output:", f"    url: {_quoted(path)}"]
    return "\n".join(["---", *lines, "---"])


def _usage(config: TrainConfig, outcome: RunOutcome, metadata: Mapping[str, str]) -> str:
    trigger = metadata.get(TRIGGER_KEY, "")
    words = f"Put `{trigger}` into the prompt.\n\n" if trigger else ""
    sampling = ""
    if metadata.get("modelspec.prediction_type") == "v":
        sampling = "It was trained on a v-prediction model and works with models of that kind.\n\n"
    text = (
        f"## Use\n\n{words}{sampling}**ComfyUI**: put `{outcome.file_name}` into `models/loras` and load it "
        f"with *Load LoRA*, strength 1.{_embedding(outcome)}"
    )
    if config.lora.adapter not in DIFFUSERS_LOADS:
        return text
    lines = [
        "import torch",
        "from diffusers import StableDiffusionXLPipeline",
        "",
        f'pipeline = StableDiffusionXLPipeline.from_pretrained("{BASE_MODEL}", torch_dtype=torch.float16)',
        *_diffusers_words(config, metadata),
        f'pipeline.load_lora_weights("{config.logging.hub_model_id}", '
        f"weight_name={_quoted(outcome.file_name)})",
        f'image = pipeline.to("cuda")({_quoted(_as_tokens(trigger, config) or "a prompt")}).images[0]',
    ]
    return "\n".join([f"{text}\n\n**diffusers**:\n\n```python", *lines, "```"])


def _embedding(outcome: RunOutcome) -> str:
    if not outcome.embedding_names:
        return ""
    files = " and ".join(f"`{name}.safetensors`" for name in outcome.embedding_names)
    written = " and ".join(f"`embedding:{name}`" for name in outcome.embedding_names)
    return f" Put {files} into `models/embeddings`, and write {written} for the new words."


def _diffusers_words(config: TrainConfig, metadata: Mapping[str, str]) -> list[str]:
    """The embedding loaded as the Hugging Face post on pivotal tuning does it; nothing without new words."""
    if EMBEDDING_KEY not in metadata:
        return []
    tokens = [f"<s{number}>" for number in range(NewTokens.parse(config.pivotal).total)]
    file = f"{metadata[EMBEDDING_KEY]}.safetensors"
    calls = [
        f'pipeline.load_textual_inversion(words["clip_{which}"], token={json.dumps(tokens)}, '
        f"text_encoder=pipeline.text_encoder{suffix}, tokenizer=pipeline.tokenizer{suffix})"
        for which, suffix in (("l", ""), ("g", "_2"))
    ]
    return [
        "from huggingface_hub import hf_hub_download",
        "from safetensors.torch import load_file",
        "",
        f'words = load_file(hf_hub_download("{config.logging.hub_model_id}", {_quoted(file)}))',
        *calls,
    ]


def _as_tokens(prompt: str, config: TrainConfig) -> str:
    """A prompt as diffusers reads it, which knows the new tokens by the names given to them above."""
    if not config.pivotal.is_on:
        return prompt
    new_tokens = NewTokens.parse(config.pivotal)
    pieces = [
        piece if isinstance(piece, str) else "".join(f"<s{token - FIRST_ID}>" for token in piece)
        for piece in new_tokens.pieces(prompt)
    ]
    return "".join(pieces)


def _pictures(pictures: Sequence[tuple[str, str]]) -> str:
    if not pictures:
        return ""
    return "## Samples\n\n" + "\n\n".join(f"![{_plain(prompt)}]({path})" for path, prompt in pictures)


def _settings(config: TrainConfig, dataset: TrainingSet, outcome: RunOutcome) -> str:
    lora, optimizer = config.lora, config.optimizer
    rows = {
        "pictures": describe_arithmetic(config, dataset),
        "steps of the file": outcome.steps,
        "rank, alpha": f"{lora.rank}, {lora.effective_alpha:g}",
        "layers": lora.targets,
        "optimizer": f"{optimizer.optimizer}, rate {optimizer.effective_learning_rate:g}, "
        f"{optimizer.lr_schedule}",
        "resolution": dataset.config.resolution,
        "seed": config.seed,
    }
    if outcome.held_out.best_loss is not None:
        rows["lowest held-out loss"] = (
            f"{outcome.held_out.best_loss:.4f} at step {outcome.held_out.best_step}"
        )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"## Training\n\n| | |\n|-|-|\n{table}\n\nAll settings are in the metadata of the file."


def _quoted(text: str) -> str:
    """A JSON string is a YAML and a Python string, too."""
    return json.dumps(text, ensure_ascii=False)


def _plain(text: str) -> str:
    return text.replace("[", "(").replace("]", ")").replace("\n", " ")
