"""The files as document and programs use them: diffusers' pipeline, against weights changed by hand."""

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionXLPipeline
from sdxl_trainer.trainer.adapter.adapter_parts import updated
from sdxl_trainer.trainer.adapter.lora import attach_adapter, attach_text_adapter
from sdxl_trainer.trainer.config import LoRAConfig
from sdxl_trainer.trainer.files.embedding_file import bundle, word_metadata, write_embeddings
from sdxl_trainer.trainer.files.lora_file import read_lora, write_diffusers_lora, write_lora
from sdxl_trainer.trainer.text.new_tokens import NewTokens

STAND_IN_LAYERS = 1
WORDS = NewTokens((("TOK", 2),))
PROMPT = "a photo of a {}, on a table"
FOLDERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
NEW_IDS = [49408, 49409]


def new_pipeline(stand_in_folder):
    pipeline = StableDiffusionXLPipeline.from_pretrained(stand_in_folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def pipeline(stand_in_folder):
    return new_pipeline(stand_in_folder)


@pytest.fixture
def by_hand(stand_in_folder):
    """A second pipeline, whose weights the test changes itself."""
    return new_pipeline(stand_in_folder)


@pytest.fixture
def vectors():
    draw = torch.Generator().manual_seed(1)
    return {
        "clip_l": torch.randn(2, 16, generator=draw) * 0.3,
        "clip_g": torch.randn(2, 24, generator=draw) * 0.3,
    }


@pytest.fixture
def embedding_file(vectors, tmp_path):
    return write_embeddings(tmp_path, "cat_emb", vectors, WORDS, {})[0]


def load_embedding(pipeline, path):
    """Document 002, "Diffusers inference", word for word but for the file's place."""
    pipe, embedding_path = pipeline, path
    state_dict = safetensors.torch.load_file(embedding_path)
    pipe.load_textual_inversion(
        state_dict["clip_l"], token=["<s0>", "<s1>"], text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer
    )
    pipe.load_textual_inversion(
        state_dict["clip_g"],
        token=["<s0>", "<s1>"],
        text_encoder=pipe.text_encoder_2,
        tokenizer=pipe.tokenizer_2,
    )


@torch.no_grad()
def conditioning_by_hand(pipeline, vectors):
    """(1, 77, 40) and (1, 24) of the prompt, with the vectors in rows that follow the tables' own."""
    before, after = PROMPT.split("{}")
    states = []
    for name, folder in FOLDERS.items():
        encoder = getattr(pipeline, folder)
        tokenizer = pipeline.tokenizer if name == "clip_l" else pipeline.tokenizer_2
        table = encoder.get_input_embeddings()
        table.weight = torch.nn.Parameter(torch.cat([table.weight, vectors[name]]))
        words = [tokenizer(text)["input_ids"][1:-1] for text in (before, after)]
        ids = [49406, *words[0], *NEW_IDS, *words[1], 49407]
        ids += [tokenizer.pad_token_id] * (77 - len(ids))
        out = encoder(torch.tensor([ids]), output_hidden_states=True)
        states.append(out.hidden_states[-2])
    return torch.cat(states, dim=-1), out.text_embeds


def latents(pipeline, **prompt):
    return pipeline(
        **prompt,
        guidance_scale=1.0,
        num_inference_steps=2,
        width=128,
        height=128,
        output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images


def trained_lora(pipeline, seed=2):
    """State, config and what it makes of the weights, of all three networks of a pipeline left as it was."""
    config = LoRAConfig(rank=8, alpha=12.0, targets="attention+ff+conv")
    adapters = [
        attach_adapter(pipeline.unet, config, seed=1),
        attach_text_adapter(pipeline.text_encoder, "clip_l", config, rank=4, seed=1),
        attach_text_adapter(pipeline.text_encoder_2, "clip_g", config, rank=2, seed=1),
    ]
    draw = torch.Generator().manual_seed(seed)
    state, changed = {}, []
    for adapter in adapters:
        own = {key: torch.randn(x.shape, generator=draw) * 0.15 for key, x in adapter.state_dict().items()}
        state |= own
        for path, layer in adapter.layers.items():
            parts = {part: own[f"{path}.{part}"] for part in ("lora_down", "lora_up")}
            changed.append((layer.base, updated(layer.base.weight, parts, 1.5)))
        adapter.detach()
    return state, config, changed


def change_by_hand(changed):
    for module, weight in changed:
        module.weight.data.copy_(weight)


def relative_error(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


def test_the_embedding_gives_the_conditioning_of_vectors_put_in_by_hand(
    pipeline, by_hand, vectors, embedding_file
):
    load_embedding(pipeline, embedding_file)
    states, _, pooled, _ = pipeline.encode_prompt(
        PROMPT.format("<s0><s1>"), do_classifier_free_guidance=False
    )
    expected_states, expected_pooled = conditioning_by_hand(by_hand, vectors)
    assert torch.equal(states, expected_states)
    assert torch.equal(pooled, expected_pooled)
    without, _, _, _ = by_hand.encode_prompt(PROMPT.format("cat dog"), do_classifier_free_guidance=False)
    assert relative_error(without, expected_states) > 0.05


@pytest.mark.parametrize("file", ["kohya", "diffusers"])
def test_lora_and_embedding_together_draw_what_weights_changed_by_hand_draw(
    pipeline, by_hand, vectors, embedding_file, tmp_path, file
):
    state, config, changed = trained_lora(by_hand)
    paths = {name: tmp_path / f"{name}.safetensors" for name in ("kohya", "diffusers")}
    write_lora(paths["kohya"], state, config, word_metadata("cat_emb", WORDS), STAND_IN_LAYERS, "fp32")
    assert write_diffusers_lora(paths["diffusers"], read_lora(paths["kohya"]), STAND_IN_LAYERS)
    prompt = {"prompt": PROMPT.format("<s0><s1>")}

    load_embedding(pipeline, embedding_file)
    base = latents(pipeline, **prompt)
    pipeline.load_lora_weights(tmp_path, weight_name=paths[file].name)
    got = latents(pipeline, **prompt)
    got_states, _, got_pooled, _ = pipeline.encode_prompt(**prompt, do_classifier_free_guidance=False)

    change_by_hand(changed)
    states, pooled = conditioning_by_hand(by_hand, vectors)
    expected = latents(by_hand, prompt_embeds=states, pooled_prompt_embeds=pooled)
    assert relative_error(got_states, states) < 1e-5
    assert relative_error(got_pooled, pooled) < 1e-5
    assert relative_error(base, expected) > 0.05, "the LoRA must do something"
    assert relative_error(got, expected) < 1e-4


def test_a_bundle_is_for_other_programs_but_its_diffusers_copy_loads(pipeline, by_hand, vectors, tmp_path):
    """diffusers takes a kohya file for one only if every key begins with lora_."""
    state, config, changed = trained_lora(by_hand)
    bundled = bundle("cat_emb", vectors, WORDS)
    write_lora(tmp_path / "a.safetensors", state, config, {}, STAND_IN_LAYERS, "fp32", bundled)
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        pipeline.load_lora_weights(tmp_path, weight_name="a.safetensors")
    write_diffusers_lora(tmp_path / "b.safetensors", read_lora(tmp_path / "a.safetensors"), STAND_IN_LAYERS)
    pipeline.load_lora_weights(tmp_path, weight_name="b.safetensors")
    change_by_hand(changed)
    asked = {"prompt": "a cat", "do_classifier_free_guidance": False}
    got, expected = pipeline.encode_prompt(**asked), by_hand.encode_prompt(**asked)
    assert relative_error(got[0], expected[0]) < 1e-5
    assert relative_error(got[2], expected[2]) < 1e-5


def test_a_file_of_words_alone_has_no_diffusers_copy(vectors, tmp_path):
    bundled = bundle("cat_emb", vectors, WORDS)
    write_lora(tmp_path / "a.safetensors", {}, LoRAConfig(), {}, bundled=bundled)
    assert not write_diffusers_lora(tmp_path / "b.safetensors", read_lora(tmp_path / "a.safetensors"))
    assert not (tmp_path / "b.safetensors").exists()
