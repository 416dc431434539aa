"""Captions with new tokens against ComfyUI's reading of the same text written with `embedding:`."""

import random
import re

import pytest
import torch
from safetensors.torch import save_file
from sdxl_trainer.trainer.sdxl.sdxl_model import HeadlessSDXL
from sdxl_trainer.trainer.sdxl.text_encoder import SDXLTextEncoder
from sdxl_trainer.trainer.sdxl.token_windows import CaptionTokenizer
from sdxl_trainer.trainer.text.new_tokens import FIRST_ID, NewTokens
from sdxl_trainer.trainer.text.token_vectors import with_vectors

TOKENS = NewTokens((("TOK", 2), ("STY", 7), ("BIG", 8), ("HUGE", 20)))
WIDTHS = {"clip_l": 768, "clip_g": 1280}
TEXT = ["a", "photo", "of", "masterpiece,", "blue", "it's", "supercalifragilistic", "\\(red\\)", "!?", "ä"]


@pytest.fixture
def folder(tmp_path):
    """Embedding files whose numbers say which new token a row is."""
    for word, _ in TOKENS.words:
        ids = torch.tensor(TOKENS.ids(word), dtype=torch.float32)
        save_file(
            {name: ids[:, None].repeat(1, width) for name, width in WIDTHS.items()},
            tmp_path / f"{word}_emb.safetensors",
        )
    return tmp_path


def random_captions(count):
    rng = random.Random(0)
    words = [word for word, _ in TOKENS.words]
    for index in range(count):
        length = rng.choice([0, 1, 3, 10, 60, 75, 80, 160])
        share = rng.choice([0.05, 0.3, 1]) if index % 5 else 0
        chosen = [rng.choice(words) if rng.random() < share else rng.choice(TEXT) for _ in range(length)]
        yield rng.choice([" ", ", ", "  "]).join(chosen)


def as_embeddings(caption):
    return re.sub(r"\b(TOK|STY|BIG|HUGE)\b", r"embedding:\1_emb", caption)


def ids(windows):
    return [[int(t if isinstance(t, int) else t[0]) for t, _ in window] for window in windows]


def test_windows_are_cut_as_those_of_the_same_prompt_with_embeddings(comfyui_folder, folder):
    from comfy.sdxl_clip import SDXLTokenizer

    theirs, ours = SDXLTokenizer(embedding_directory=str(folder)), CaptionTokenizer(TOKENS)
    long = held = 0
    for caption in random_captions(600):
        expected = theirs.tokenize_with_weights(as_embeddings(caption))
        found = ours.tokenize(caption)
        assert found.clip_l.tolist() == ids(expected["l"]), repr(caption)
        assert found.clip_g.tolist() == ids(expected["g"]), repr(caption)
        long += len(found.clip_l) > 1
        held += bool((found.clip_l >= FIRST_ID).any())
    assert min(long, held) > 200


@pytest.mark.parametrize("layer", [None, -1, -3])
def test_conditions_equal_those_of_embedding_files(stand_in, stand_in_folder, tmp_path, layer):
    _, clip, _ = stand_in
    generator = torch.Generator().manual_seed(0)
    vectors = {
        "clip_l": torch.randn(TOKENS.total, 16, generator=generator) * 0.3,
        "clip_g": torch.randn(TOKENS.total, 24, generator=generator) * 0.3,
    }
    for word, _ in TOKENS.words:
        rows = {name: rows[TOKENS.rows(word)].contiguous() for name, rows in vectors.items()}
        save_file(rows, tmp_path / f"{word}_emb.safetensors")
    clip = clip.clone()
    clip.tokenizer = type(clip.tokenizer)(embedding_directory=str(tmp_path))
    if layer is not None:
        clip.clip_layer(layer)
    weighted = [("a photo of TOK ", 1.0), ("in STY style", 1.3), (", HUGE ", 1.0), ("BIG" + " cat" * 90, 0.6)]
    plain = "".join(text for text, _ in weighted)
    prompt = "a photo of TOK (in STY style:1.3), HUGE (BIG" + " cat" * 90 + ":0.6)"

    with HeadlessSDXL.load(stand_in_folder).open_text_encoders() as encoders:
        encoders = type(encoders)(encoders.clip_l, encoders.clip_g, layer or -2)
        encoder = SDXLTextEncoder(encoders, TOKENS)
        with with_vectors(encoders, vectors):
            found = [encoder.encode([plain])[0], encoder.encode_weighted(weighted)]

    for condition, text in zip(found, (plain, prompt), strict=True):
        states, pooled = clip.encode_from_tokens(clip.tokenize(as_embeddings(text)), return_pooled=True)
        assert len(condition.prompt_embeds) == 2 * 77
        torch.testing.assert_close(condition.prompt_embeds, states[0].float(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(condition.pooled, pooled[0].float(), rtol=1e-4, atol=1e-4)
    assert (found[0].prompt_embeds - found[1].prompt_embeds).abs().max() > 0.05
