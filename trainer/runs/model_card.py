"""The README.md that stands beside a LoRA, or beside new words without one, on the Hugging Face hub."""

import json
from collections.abc import Mapping, Sequence

from ..config import TrainConfig
from ..data.dataset import TrainingSet
from ..files.embedding_file import EMBEDDING_KEY
from ..settings.part_rates import Part, part_optimizer, part_window
from ..text.new_tokens import FIRST_ID, NewTokens, own_stem
from ..text.text_checks import trains_tokens_alone
from .run_report import RunOutcome, describe_arithmetic

BASE_MODEL = "stabilityai/stable-diffusion-xl-base-1.0"
"""The family; the checkpoint that was trained on is a file name, and no repository is known for it."""
TAGS = ("text-to-image", "stable-diffusion-xl", "diffusers")
LORA_TAGS = ("lora", "template:sd-lora")
WORD_TAGS = ("textual_inversion",)
DIFFUSERS_LOADS = ("lora",)
TRIGGER_KEY = "modelspec.trigger_phrase"
_TEXT_PARTS: tuple[tuple[Part, str], ...] = (
    ("tokens", "new words"),
    ("clip_l", "CLIP-L's LoRA"),
    ("clip_g", "CLIP-G's LoRA"),
)


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
        _front_matter(config, metadata.get(TRIGGER_KEY, ""), pictures),
        f"# {config.name}\n\n{_kind(config)} for Stable Diffusion XL, trained on "
        f"`{outcome.model_title}` with SDXL Trainer for ComfyUI.",
        _usage(config, outcome, metadata),
        _pictures(pictures),
        _settings(config, dataset, outcome),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _kind(config: TrainConfig) -> str:
    if trains_tokens_alone(config):
        return "New words (textual inversion)"
    return {"lora": "A LoRA", "dora": "A DoRA", "loha": "A LoHa", "lokr": "A LoKr"}[config.lora.adapter]


def _front_matter(config: TrainConfig, trigger: str, pictures: Sequence[tuple[str, str]]) -> str:
    tags = (*TAGS, *(WORD_TAGS if trains_tokens_alone(config) else LORA_TAGS))
    lines = [
        f"base_model: {BASE_MODEL}",
        "base_model_relation: adapter",
        "library_name: diffusers",
        "pipeline_tag: text-to-image",
        "tags:",
        *(f"- {tag}" for tag in tags),
    ]
    if trigger:
        lines.append(f"instance_prompt: {_quoted(trigger)}")
    if pictures:
        lines.append("widget:")
        for path, prompt in pictures:
            lines += [f"- text: {_quoted(prompt)}", "  output:", f"    url: {_quoted(path)}"]
    return "\n".join(["---", *lines, "---"])


def _usage(config: TrainConfig, outcome: RunOutcome, metadata: Mapping[str, str]) -> str:
    sampling = ""
    if metadata.get("modelspec.prediction_type") == "v":
        sampling = "It was trained on a v-prediction model and works with models of that kind."
    parts = [
        "## Use",
        sampling,
        *_in_comfyui(config, outcome, metadata),
        _in_diffusers(config, outcome, metadata),
    ]
    return "\n\n".join(filter(None, parts))


def _in_comfyui(config: TrainConfig, outcome: RunOutcome, metadata: Mapping[str, str]) -> list[str]:
    """Where the files go and what the prompt says; new words are known to Apply LoRA of this pack alone."""
    trigger, file = metadata.get(TRIGGER_KEY, ""), f"`{outcome.file_name}` into `models/loras`"
    files = _word_files(config, metadata)
    if not files:
        prompt = f"Put `{trigger}` into the prompt." if trigger else ""
        return [prompt, f"**ComfyUI**: put {file} and load it with *Load LoRA*, strength 1."]
    embedding = metadata[EMBEDDING_KEY]
    written = ", and ".join(f"`embedding:{name}` in place of `{word}`" for word, name in files.items())
    with_pack = f"load it with *Apply LoRA*, strength 1, and put `{trigger}` into the prompt."
    if trains_tokens_alone(config):
        own = " and ".join(f"`{name}.safetensors`" for name in files.values())
        return [
            f"**ComfyUI**: put {own} into `models/embeddings`, and write {written}.",
            f"**ComfyUI with SDXL Trainer**: put {file}, {with_pack}",
        ]
    own = " and ".join(f"`{name}.safetensors`" for name in dict.fromkeys([embedding, *files.values()]))
    return [
        f"**ComfyUI**: put {file} and {own} into `models/embeddings`.",
        f"- with SDXL Trainer: {with_pack}\n"
        f"- with ComfyUI alone: load it with *Load LoRA*, strength 1, and write {written}.",
    ]


def _word_files(config: TrainConfig, metadata: Mapping[str, str]) -> dict[str, str]:
    """Each new word and the name of its own embedding file, without ending."""
    if EMBEDDING_KEY not in metadata:
        return {}
    stem, words = metadata[EMBEDDING_KEY], NewTokens.parse(config.pivotal).names
    return {word: own_stem(stem, word, len(words)) for word in words}


def _in_diffusers(config: TrainConfig, outcome: RunOutcome, metadata: Mapping[str, str]) -> str:
    has_lora = not trains_tokens_alone(config)
    if has_lora and config.lora.adapter not in DIFFUSERS_LOADS:
        return ""
    prompt = _as_tokens(metadata.get(TRIGGER_KEY, ""), config) or "a prompt"
    call = (
        f'pipeline.load_lora_weights("{config.logging.hub_model_id}", '
        f"weight_name={_quoted(outcome.file_name)})"
    )
    lines = [
        "import torch",
        "from diffusers import StableDiffusionXLPipeline",
        "",
        f'pipeline = StableDiffusionXLPipeline.from_pretrained("{BASE_MODEL}", torch_dtype=torch.float16)',
        *_diffusers_words(config, metadata),
        *([call] if has_lora else []),
        f'image = pipeline.to("cuda")({_quoted(prompt)}).images[0]',
    ]
    return "\n".join(["**diffusers**:\n\n```python", *lines, "```"])


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
    lora = config.lora
    rows = {"pictures": describe_arithmetic(config, dataset), "steps of the file": outcome.steps}
    if not trains_tokens_alone(config):
        rows |= {
            "rank, alpha": f"{lora.rank}, {lora.effective_alpha:g}",
            "layers": lora.targets,
            "optimizer": _optimizer(config, "unet"),
        }
    for part, title in _TEXT_PARTS:
        if part_window(config, part)[1]:
            rows[f"optimizer of {title}"] = _optimizer(config, part)
    rows |= {"resolution": dataset.config.resolution, "seed": config.seed}
    if outcome.held_out.best_loss is not None:
        rows["lowest held-out loss"] = (
            f"{outcome.held_out.best_loss:.4f} at step {outcome.held_out.best_step}"
        )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"## Training\n\n| | |\n|-|-|\n{table}\n\nAll settings are in the metadata of the file."


def _optimizer(config: TrainConfig, part: Part) -> str:
    own = part_optimizer(config, part)
    return f"{own.optimizer}, rate {own.learning_rate:g}, {own.lr_schedule}"


def _quoted(text: str) -> str:
    """A JSON string is a YAML and a Python string, too."""
    return json.dumps(text, ensure_ascii=False)


def _plain(text: str) -> str:
    return text.replace("[", "(").replace("]", ")").replace("\n", " ")
