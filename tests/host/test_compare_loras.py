"""Compare LoRAs: each picture is KSampler's with that file at that strength, and MODEL is put back."""

import pytest
import torch

WIDGETS = {
    "lora_name": "cat.safetensors",
    "checkpoints": "",
    "strengths": "0, 1.0",
    "prompts": "a red circle\n\na zorp",
    "negative": "blurry",
    "seed": 3,
    "steps": 3,
    "cfg": 5.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "width": 96,
    "height": 64,
}


@pytest.fixture
def compare(stand_in, kept_loras):
    """Run the node as ComfyUI does; (sheet, images, report)."""
    from sdxl_trainer.nodes.compare import CompareLoRAs

    def run(clip=None, **changes):
        model, wired_clip, vae = stand_in
        with torch.inference_mode():
            made = CompareLoRAs.execute(model, clip or wired_clip, vae, **{**WIDGETS, **changes})
        return made.args

    return run


@pytest.fixture
def ksampler(stand_in, kept_loras):
    """What ComfyUI's own nodes draw: LoraLoader, CLIPTextEncode, KSampler, VAEDecode."""
    import nodes

    def draw(prompt, seed, lora="", strength=1.0):
        model, clip, vae = stand_in
        with torch.inference_mode():
            if lora:
                model, clip = nodes.LoraLoader().load_lora(model, clip, lora, strength, strength)
            encode = nodes.CLIPTextEncode().encode
            (latent,) = nodes.EmptyLatentImage().generate(WIDGETS["width"], WIDGETS["height"])
            (sampled,) = nodes.KSampler().sample(
                model, seed, 3, 5.0, "euler", "normal", *encode(clip, prompt), *encode(clip, "blurry"), latent
            )
            return nodes.VAEDecode().decode(vae, sampled)[0][0]

    return draw


def test_rows_are_prompts_and_strengths_and_columns_are_checkpoints(compare, ksampler):
    sheet, images, report = compare(strengths="0, 0.5, 1")
    assert images.shape == (2 * 2 * 4, 64, 96, 3)
    assert sheet.shape[0] == 1
    assert sheet.shape[2] > 4 * 160
    lines = report.splitlines()
    assert lines[2] == "1: without LoRA: a red circle"
    assert lines[3] == "2: step 2, strength 0.5: a red circle"
    assert lines[9] == "8: final, strength 1: a red circle"
    assert lines[-1] == "16: final, strength 1: a zorp"
    assert torch.allclose(images[0], ksampler("a red circle", 3), atol=1e-5)
    assert torch.equal(images[4], images[0])
    half = ksampler("a red circle", 3, "cat-step000002.safetensors", 0.5)
    assert torch.allclose(images[1], half, atol=1e-5)
    assert torch.allclose(images[15], ksampler("a zorp", 4, "cat.safetensors"), atol=1e-5)
    assert not torch.allclose(images[1], images[3], atol=1e-2)


def test_named_checkpoints_are_drawn_in_their_order(compare, ksampler):
    _, images, report = compare(checkpoints="final, 4", strengths="0.8", prompts="a zorp")
    assert [line.split(":")[1].strip() for line in report.splitlines()[2:]] == [
        "final, strength 0.8",
        "step 4, strength 0.8",
    ]
    assert torch.allclose(images[1], ksampler("a zorp", 3, "cat-step000004.safetensors", 0.8), atol=1e-5)


@pytest.fixture
def left(compare, stand_in, host_state):
    """The state of the host but for one flag, once everything was loaded.

    ComfyUI 0.3.64 makes a weight anew when it patches it, and leaves requires_grad off.
    """
    compare(prompts="a zorp", checkpoints="4", strengths="0")

    def state():
        found = host_state(*stand_in)
        return {part: {k: v for k, v in of.items() if k != "requires_grad"} for part, of in found.items()}

    return state


def test_afterwards_model_clip_and_vae_are_as_they_were(compare, left):
    state = left()
    compare(prompts="a zorp")
    assert left() == state


def test_cancel_ends_at_once_and_puts_the_model_back(compare, left, monkeypatch):
    import comfy.model_management
    from sdxl_trainer.nodes import compare as module

    state = left()

    def pressed_at_the_second_picture(*_):
        def progress(done, total):
            if done == 1:
                comfy.model_management.interrupt_current_processing()
                comfy.model_management.throw_exception_if_processing_interrupted()

        return progress

    monkeypatch.setattr(module, "report_progress", pressed_at_the_second_picture)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        compare()
    assert left() == state


def test_a_lora_with_clip_layers_changes_the_prompts_too(compare, ksampler, stand_in, kept_loras):
    from safetensors.torch import load_file, save_file

    name = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    weights = stand_in[1].cond_stage_model.state_dict()
    key = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    height, width = weights[key].shape
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(kept_loras / "cat.safetensors") | {
        f"{name}.lora_down.weight": torch.randn(2, width, generator=generator),
        f"{name}.lora_up.weight": torch.randn(height, 2, generator=generator),
        f"{name}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, kept_loras / "both.safetensors")
    _, images, _ = compare(lora_name="both.safetensors", prompts="a zorp")
    assert torch.allclose(images[1], ksampler("a zorp", 3, "both.safetensors"), atol=1e-5)
    assert not torch.allclose(images[1], ksampler("a zorp", 3, "cat.safetensors"), atol=1e-3)


@pytest.fixture
def with_words(kept_loras, embeddings_folder, stand_in):
    """The kept LoRAs with layers of a text encoder too, each with an embedding of its own for TOK."""
    from safetensors.torch import load_file, save_file

    name = "lora_te2_text_model_encoder_layers_1_self_attn_q_proj"
    width = stand_in[1].cond_stage_model.clip_g.transformer.get_input_embeddings().weight.shape[1]
    generator = torch.Generator().manual_seed(1)
    for stem in ("cat-step000002", "cat-step000004", "cat"):
        drawn = {
            key: torch.randn(2, size, generator=generator) for key, size in (("clip_l", 16), ("clip_g", 24))
        }
        save_file(drawn, embeddings_folder / f"{stem}_emb.safetensors")
        path = kept_loras / f"{stem}.safetensors"
        tensors = load_file(path) | {
            f"{name}.lora_down.weight": torch.randn(2, width, generator=generator),
            f"{name}.lora_up.weight": torch.randn(width, 2, generator=generator),
            f"{name}.alpha": torch.tensor(2.0),
        }
        words = {"sdxl_trainer_words": '[["TOK", 0, 2]]', "sdxl_trainer_embedding": f"{stem}_emb"}
        save_file(tensors, path, words)
    return kept_loras


def test_each_column_knows_the_words_of_its_own_checkpoint(compare, ksampler, with_words, stand_in):
    before = stand_in[1].tokenizer
    _, images, report = compare(prompts="a (TOK:1.2), red", strengths="0, 0.7")
    assert torch.allclose(images[0], ksampler("a (TOK:1.2), red", 3), atol=1e-5)
    drawn = {}
    for image, stem in zip(images[1:], ("cat-step000002", "cat-step000004", "cat"), strict=True):
        drawn[stem] = ksampler(f"a (embedding:{stem}_emb:1.2), red", 3, f"{stem}.safetensors", 0.7)
        assert torch.allclose(image, drawn[stem], atol=1e-5), stem
    wordless = ksampler("a (TOK:1.2), red", 3, "cat.safetensors", 0.7)
    assert not torch.allclose(images[3], wordless, atol=1e-3)
    assert report.splitlines()[1].endswith("cat.safetensors; words: TOK")
    assert stand_in[1].tokenizer is before


def test_words_without_their_embedding_are_said_before_anything_is_drawn(
    compare, with_words, embeddings_folder, monkeypatch
):
    from sdxl_trainer.nodes import compare as module
    from sdxl_trainer.trainer.errors import InputError

    (embeddings_folder / "cat_emb.safetensors").unlink()
    monkeypatch.delattr(module, "draw_comparison")
    with pytest.raises(InputError, match=r"cat_emb\.safetensors, which is not among the embeddings"):
        compare(prompts="a TOK")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_name": "none"}, "no LoRA: wire one"),
        ({"checkpoints": "250"}, r"checkpoints holds 250, but .* there are steps 2, 4"),
        ({"checkpoints": "last"}, "checkpoints holds 'last'"),
        ({"strengths": "half"}, "strengths holds 'half'"),
        ({"strengths": "0, 99"}, "strengths holds 99"),
        ({"prompts": " \n"}, "prompts is empty"),
        ({"prompts": "x\n" * 200}, "800 pictures, but at most 400"),
        ({"width": 96, "sampler_name": "eular"}, "sampler is 'eular'"),
        ({"lora": {"a": torch.zeros(1)}}, "comes from no file"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_is_drawn(compare, changes, message):
    from sdxl_trainer.trainer.errors import InputError

    with pytest.raises(InputError, match=message):
        compare(**changes)


def test_a_rewritten_checkpoint_is_noticed(kept_loras):
    from sdxl_trainer.nodes.compare import CompareLoRAs

    before = CompareLoRAs.fingerprint_inputs(lora_name="cat.safetensors")
    kept = kept_loras / "cat-step000004.safetensors"
    kept.write_bytes((kept_loras / "cat-step000002.safetensors").read_bytes())
    assert CompareLoRAs.fingerprint_inputs(lora_name="cat.safetensors") != before
