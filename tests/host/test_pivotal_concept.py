"""Pivotal Tuning teaches the stand-in a creature under a new word, and core's nodes draw it with both files.

Trained once, then drawn with ComfyUI's LoraLoader, CLIPTextEncode, KSampler and VAEDecode.
`assets/stand_in/read.py` measures how much of a zorp a picture shows: 1 as it was drawn, 0 none.
"""

import statistics
from dataclasses import dataclass, replace

import pytest
import torch
from PIL import Image

SIDE = 128
SHOWS_A_ZORP = 0.3  # measured: 0.47
BACKGROUNDS = ("blue", "purple", "green", "yellow", "black")
UNRELATED = "a large red star on a white background"
WIDTHS = {"clip_l": 16, "clip_g": 24}
LONG = "a large TOK, " + ", ".join(f"part {i} of it" for i in range(30)) + ", and TOK on a blue background"


def prompts_of(word):
    return [f"a large {word} on a {background} background" for background in BACKGROUNDS]


@dataclass
class Trained:
    """What was wired before, what the node gave out, and the folder of the embedding."""

    base: tuple
    outputs: dict
    embeddings: object

    def core_loader(self):
        import nodes

        with torch.inference_mode():
            return nodes.LoraLoader().load_lora(*self.base[:2], self.outputs["lora_file"], 1.0, 1.0)

    def apply_lora(self):
        from sdxl_trainer.nodes.apply import ApplyLoRA

        with torch.inference_mode():
            return ApplyLoRA.execute(*self.base[:2], self.outputs["lora_file"], 1.0, 1.0, 0).args[:2]

    def draw(self, model, clip, prompts):
        """Latents and pictures, by core's nodes."""
        import nodes

        latents, pictures = [], []
        for place, prompt in enumerate(prompts):
            with torch.inference_mode():
                positive, negative = encode(clip, prompt), encode(clip, "")
                empty = nodes.EmptyLatentImage().generate(SIDE, SIDE, 1)[0]
                (latent,) = nodes.KSampler().sample(
                    model, 50 + place, 20, 6.0, "euler", "normal", positive, negative, empty
                )
                (pixels,) = nodes.VAEDecode().decode(self.base[2], latent)
            latents.append(latent["samples"])
            pictures.append(Image.fromarray((pixels[0] * 255).round().to(torch.uint8).numpy()))
        return latents, pictures


def encode(clip, prompt):
    import nodes

    with torch.inference_mode():
        return nodes.CLIPTextEncode().encode(clip, prompt)[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """ComfyUI's folders, in a place of their own."""
    import folder_paths

    place = tmp_path_factory.mktemp("pivotal concept")
    own = {}
    for kind in ("loras", "embeddings"):
        (place / kind).mkdir()
        own[kind] = ([str(place / kind)], {".safetensors"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_paths, "folder_names_and_paths", folder_paths.folder_names_and_paths | own)
        patch.setattr(folder_paths, "filename_list_cache", {})
        patch.setattr(folder_paths, "output_directory", str(place / "output"))
        patch.setattr(folder_paths, "temp_directory", str(place / "temp"))
        yield place


@pytest.fixture(scope="module")
def trained(loading, folders, example_folder):
    from sdxl_trainer.nodes.pivotal import PivotalTuning
    from sdxl_trainer.trainer.config import DatasetConfig, LoRAConfig, OptimizerConfig, PreviewConfig
    from sdxl_trainer.trainer.data.dataset import load_dataset

    with torch.inference_mode():
        base = loading.load_stand_in()
    for name, width in WIDTHS.items():
        tokenizer = getattr(base[1].tokenizer, name)
        tokenizer.embedding_directory, tokenizer.embedding_size = [str(folders / "embeddings")], width
    dataset = load_dataset(example_folder, DatasetConfig(resolution=SIDE, bucket_step=32))
    pictures = [
        replace(picture, captions=tuple(caption.replace("zorp", "TOK") for caption in picture.captions))
        for picture in dataset.pictures
    ]
    with torch.inference_mode():
        values = PivotalTuning.execute(
            *base,
            replace(dataset, pictures=tuple(pictures), fingerprint="TOK"),
            name="concept",
            preset="object",
            token="TOK",
            new_tokens=4,
            ti_fraction=0.35,
            steps=400,
            rank=16,
            learning_rate=3e-3,
            token_learning_rate=1e-2,
            batch_size=4,
            seed=1,
            resume="new",
            lora_settings=LoRAConfig(targets="attention+ff+conv"),
            optimizer_settings=OptimizerConfig(lr_schedule="cosine"),
            preview_settings=PreviewConfig(prompts="TOK", steps=1, width=SIDE, height=SIDE),
        ).args
    outputs = dict(zip([o.id for o in PivotalTuning.define_schema().outputs], values, strict=True))
    return Trained(base, outputs, folders / "embeddings")


def test_lora_and_embedding_draw_the_concept_and_the_lora_alone_does_not(trained, read):
    named = f"embedding:{trained.outputs['embedding']}"
    assert named == "embedding:concept_emb"
    loaded = trained.core_loader()
    drawn = {
        "neither": trained.draw(*trained.base[:2], prompts_of("TOK"))[1],
        "both": trained.draw(*loaded, prompts_of(named))[1],
        "lora": trained.draw(*loaded, prompts_of("TOK"))[1],
    }
    score = {name: statistics.mean(map(read.zorp_score, pictures)) for name, pictures in drawn.items()}
    assert score["neither"] == 0
    assert score["both"] > SHOWS_A_ZORP, score
    assert score["lora"] < 0.1, score
    (star,) = trained.draw(*loaded, [UNRELATED])[1]
    assert read.zorp_score(star) < 0.1
    assert read.read_scene(star).caption == UNRELATED


@pytest.mark.parametrize(
    "prompt",
    [*prompts_of("TOK"), "a (large TOK:1.2) on a blue background", "(tok:0.8), a star", LONG],
)
def test_apply_lora_reads_the_word_as_core_reads_the_embedding(trained, prompt):
    named = prompt.replace("TOK", "embedding:concept_emb").replace("tok", "embedding:concept_emb")
    ((states, more),) = encode(trained.core_loader()[1], named)
    for clip in (trained.apply_lora()[1], trained.outputs["trained_clip"]):
        ((own_states, own_more),) = encode(clip, prompt)
        assert torch.equal(own_states, states)
        assert torch.equal(own_more["pooled_output"], more["pooled_output"])


def test_apply_lora_draws_the_same_picture_to_the_bit(trained):
    prompts = [prompt.format("TOK") for prompt in ("a large {} on a blue background", "a (small {}:1.2)")]
    named = [prompt.replace("TOK", "embedding:concept_emb") for prompt in prompts]
    own, _ = trained.draw(*trained.apply_lora(), prompts)
    cores, _ = trained.draw(*trained.core_loader(), named)
    assert all(torch.equal(a, b) for a, b in zip(own, cores, strict=True))
    assert not torch.equal(own[0], own[1])


@pytest.mark.parametrize("prompt", [prompts_of("TOK")[0], LONG])
def test_core_gives_the_condition_that_the_trainer_trained_with(trained, conditions, prompt):
    """The vectors of the file inside the trainer's own reading of the same CLIP."""
    from safetensors.torch import load_file
    from sdxl_trainer.nodes.comfy_bridge.host_model import HostModel
    from sdxl_trainer.trainer.text.new_tokens import NewTokens
    from sdxl_trainer.trainer.text.token_vectors import with_vectors

    vectors = load_file(trained.embeddings / "concept_emb.safetensors")
    host = HostModel(*trained.base, "stand-in")
    with host.open_text_encoders() as encoders, with_vectors(encoders, vectors):
        (own,) = conditions.encoder_of(encoders, NewTokens((("TOK", 4),))).encode([prompt])
    ((states, more),) = encode(trained.core_loader()[1], prompt.replace("TOK", "embedding:concept_emb"))
    torch.testing.assert_close(own.prompt_embeds, states[0].float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(own.pooled, more["pooled_output"][0].float(), rtol=1e-4, atol=1e-4)
