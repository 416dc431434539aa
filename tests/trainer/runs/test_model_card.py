"""What the card of a LoRA with new words says, and that of new words alone."""

import pytest
from sdxl_trainer.trainer.files.embedding_file import word_metadata
from sdxl_trainer.trainer.runs.model_card import TRIGGER_KEY, model_card
from sdxl_trainer.trainer.runs.run_report import RunOutcome
from sdxl_trainer.trainer.text.new_tokens import NewTokens

ALONE = {"token": "TOK", "ti_fraction": 1.0}


@pytest.fixture
def card_of(tiny_run, tmp_path):
    """The card of a run with these settings, without front matter, and the front matter's tags."""
    dataset = tiny_run.tiny_dataset(tmp_path)

    def card(**values):
        values = {"logging": {"hub_model_id": "me/cat"}, **values}
        config = tiny_run.tiny_job(tmp_path, dataset, **values).config
        metadata = {}
        if config.pivotal.is_on:
            new_tokens = NewTokens.parse(config.pivotal)
            trigger = " and ".join(word for word, _ in new_tokens.words)
            metadata = {TRIGGER_KEY: f"a photo of {trigger}", **word_metadata("cat_emb", new_tokens)}
        outcome = RunOutcome(
            name="cat", model_title="tiny.safetensors", file_name="cat.safetensors", kept_names=(), steps=6
        )
        _, front, text = model_card(config, dataset, outcome, metadata, ()).split("---\n", 2)
        return text, {line[2:] for line in front.splitlines() if line.startswith("- ")}

    return card


def code_of(text):
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    return code


def test_new_words_alone_are_no_lora_and_load_as_none(card_of):
    text, tags = card_of(pivotal=ALONE)
    assert tags == {"text-to-image", "stable-diffusion-xl", "diffusers", "textual_inversion"}
    assert "New words (textual inversion) for Stable Diffusion XL, trained on `tiny.safetensors`" in text
    assert "A LoRA" not in text
    assert "Load LoRA" not in text
    assert "rank" not in text
    assert "| layers |" not in text
    assert (
        "**ComfyUI**: put `cat_emb.safetensors` into `models/embeddings`, and write `embedding:cat_emb` in "
        "place of `TOK`." in text
    )
    assert "**ComfyUI with SDXL Trainer**: put `cat.safetensors` into `models/loras`, load it with" in text
    code = code_of(text)
    assert "load_lora_weights" not in code
    assert code.count("load_textual_inversion") == 2
    assert '("a photo of <s0><s1>")' in code


def test_new_words_alone_load_in_diffusers_whatever_the_adapter(card_of):
    assert "load_textual_inversion" in card_of(pivotal=ALONE, lora={"adapter": "loha"})[0]
    with_lora, _ = card_of(pivotal={"token": "TOK"}, lora={"adapter": "loha"})
    assert "A LoHa for" in with_lora
    assert "diffusers" not in with_lora


def test_the_word_is_for_apply_lora_and_the_embedding_for_all_others(card_of):
    text, tags = card_of(pivotal={"token": "TOK"})
    assert {"lora", "template:sd-lora"} <= tags
    assert "textual_inversion" not in tags
    usage = text.split("## Use\n\n")[1].split("**diffusers**")[0]
    assert usage == (
        "**ComfyUI**: put `cat.safetensors` into `models/loras` and `cat_emb.safetensors` into "
        "`models/embeddings`.\n\n"
        "- with SDXL Trainer: load it with *Apply LoRA*, strength 1, and put `a photo of TOK` into the "
        "prompt.\n"
        "- with ComfyUI alone: load it with *Load LoRA*, strength 1, and write `embedding:cat_emb` in place "
        "of `TOK`.\n\n"
    )
    assert 'load_lora_weights("me/cat", weight_name="cat.safetensors")' in code_of(text)


def test_each_of_several_words_has_its_own_embedding(card_of):
    text, _ = card_of(pivotal={"token": "TOK, OHWX"})
    files = "`cat_emb.safetensors` and `cat_emb_tok.safetensors` and `cat_emb_ohwx.safetensors`"
    assert f"{files} into `models/embeddings`" in text  # Apply LoRA reads the first of them
    assert (
        "`embedding:cat_emb_tok` in place of `TOK`, and `embedding:cat_emb_ohwx` in place of `OHWX`" in text
    )
    alone, _ = card_of(pivotal={**ALONE, "token": "TOK, OHWX"})
    assert "put `cat_emb_tok.safetensors` and `cat_emb_ohwx.safetensors` into `models/embeddings`" in alone


def test_optimizer_and_rate_of_each_part_are_told(card_of):
    optimizer = {"optimizer": "prodigy", "learning_rate": 1.0, "lr_schedule": "constant"}
    tokens = {"token": "TOK", "optimizer": "adamw", "learning_rate": 7e-4}
    encoders = {"train_text_encoder": "both", "clip_g_learning_rate": 0.5}
    text, _ = card_of(optimizer=optimizer, pivotal=tokens, text_encoder=encoders)
    assert "| optimizer | prodigy, rate 1, constant |" in text
    assert "| optimizer of new words | adamw, rate 0.0007, constant |" in text
    assert "| optimizer of CLIP-L's LoRA | prodigy, rate 1, constant |" in text
    assert "| optimizer of CLIP-G's LoRA | prodigy, rate 0.5, constant |" in text
    alone, _ = card_of(optimizer=optimizer, pivotal={**tokens, "ti_fraction": 1.0})
    assert "| optimizer of new words | adamw, rate 0.0007, constant |" in alone
    assert "prodigy" not in alone
    assert "optimizer of" not in card_of(optimizer=optimizer)[0]


def test_a_lora_without_words_is_loaded_as_ever(card_of):
    text, tags = card_of()
    assert "**ComfyUI**: put `cat.safetensors` into `models/loras` and load it with *Load LoRA*" in text
    assert "embedding" not in text
    assert "lora" in tags
    assert "| rank, alpha |" in text
    assert '("a prompt")' in code_of(text)
