"""Averages of LoRAs with layers of text encoders and with words."""

import pytest
import torch
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.averaged_file import write_average
from sdxl_trainer.trainer.files.embedding_file import (
    EMBEDDING_KEY,
    WORDS_KEY,
    bundle,
    read_words,
    word_metadata,
    write_embeddings,
)
from sdxl_trainer.trainer.files.lora_average import average_loras
from sdxl_trainer.trainer.files.lora_file import LoRAFile, read_lora
from sdxl_trainer.trainer.text.new_tokens import NewTokens

TOK = NewTokens((("TOK", 2),))
LAYER = "lora_te2_text_model_encoder_layers_0_mlp_fc1"


def vectors(seed, rows=2):
    draw = torch.Generator().manual_seed(seed)
    return {"clip_l": torch.randn(rows, 16, generator=draw), "clip_g": torch.randn(rows, 24, generator=draw)}


def lora(seed, tokens=None, own=None, stem="cat_emb", has_bundle=True):
    draw = torch.Generator().manual_seed(seed)
    tensors = {
        f"{LAYER}.lora_down.weight": torch.randn(2, 24, generator=draw),
        f"{LAYER}.lora_up.weight": torch.randn(96, 2, generator=draw),
        f"{LAYER}.alpha": torch.tensor(3.0),
    }
    if tokens is None:
        return LoRAFile(tensors, {})
    words = bundle(stem, own, tokens) if has_bundle else {}
    return LoRAFile(tensors | words, {**word_metadata(stem, tokens), "ss_output_name": "cat"})


def update_of(file):
    parts = file.parts[LAYER]
    return parts["lora_up"].float() @ parts["lora_down"].float() * file.scale_of(LAYER)


def nowhere(_stem):
    return None


def words_of(path):
    return read_words(read_lora(path), nowhere)


def test_text_layers_are_averaged_as_all_others():
    files = [lora(1), lora(2)]
    mean = LoRAFile(average_loras(files, [1, 3]), {})
    expected = 0.25 * update_of(files[0]) + 0.75 * update_of(files[1])
    torch.testing.assert_close(update_of(mean), expected)


@pytest.mark.parametrize("has_bundle", [True, False])
def test_checkpoints_of_one_run_keep_its_word_within_the_average(tmp_path, has_bundle):
    """Each names its own embedding file; after the pivot all hold the same vectors."""
    own = vectors(1)
    stems = ("cat-step000500_emb", "cat_emb")
    files = {stem: lora(seed, TOK, own, stem, has_bundle) for seed, stem in enumerate(stems)}
    for stem in stems:
        write_embeddings(tmp_path, stem, own, TOK, {})
    path, is_new = write_average(
        tmp_path, "mean", files, [1, 1], lambda stem: tmp_path / f"{stem}.safetensors"
    )
    assert is_new
    found = words_of(path)
    assert list(found.vectors) == ["TOK"]
    assert all(torch.equal(found.vectors["TOK"][key], x) for key, x in own.items())
    metadata = read_lora(path).metadata
    assert metadata[WORDS_KEY] == '[["TOK", 0, 2]]'
    assert metadata[EMBEDDING_KEY] == "mean_emb"
    # half precision of the layers only
    assert read_lora(path).tensors[f"{LAYER}.lora_up.weight"].dtype == torch.float16
    assert read_lora(path).tensors["bundle_emb.mean_emb.clip_g"].dtype == torch.float32


def test_other_words_are_all_kept(tmp_path):
    sty = NewTokens((("STY", 3),))
    files = {"a": lora(1, TOK, vectors(1)), "b": lora(2, sty, vectors(2, 3), "sty_emb"), "c": lora(3)}
    path, _ = write_average(tmp_path, "mean", files, [1, 1, 1])
    found = words_of(path)
    assert list(found.vectors) == ["TOK", "STY"]
    assert torch.equal(found.vectors["STY"]["clip_l"], vectors(2, 3)["clip_l"])


def test_the_same_word_with_other_vectors_is_refused(tmp_path):
    for other in (vectors(2), vectors(1, 3)):
        tokens = NewTokens((("tok", len(other["clip_l"])),))
        files = {"a": lora(1, TOK, vectors(1)), "b": lora(2, tokens, other)}
        with pytest.raises(InputError, match="a and b were trained with the same new word tok, but"):
            write_average(tmp_path, "mean", files, [1, 1])
        write_average(tmp_path, "mean", files, [1, 0])
    assert len(list(tmp_path.iterdir())) == 1, "a file of share 0 has no say, and the same average is found"


def test_words_whose_file_is_gone_are_refused(tmp_path):
    files = {"a": lora(1, TOK, vectors(1), has_bundle=False), "b": lora(2)}
    with pytest.raises(InputError, match=r"cat_emb\.safetensors, which is not among the embeddings"):
        write_average(tmp_path, "mean", files, [1, 1])
    assert not list(tmp_path.iterdir())


def test_the_same_average_is_found_again_and_another_gets_a_number(tmp_path):
    files = {"a": lora(1, TOK, vectors(1)), "b": lora(2, TOK, vectors(1))}
    first, _ = write_average(tmp_path, "mean", files, [1, 1])
    assert write_average(tmp_path, "mean", files, [1, 1]) == (first, False)
    second, is_new = write_average(tmp_path, "mean", files, [1, 2])
    assert is_new
    assert second.name == "mean-2.safetensors"
    assert "bundle_emb.mean-2_emb.clip_l" in read_lora(second).tensors
    assert write_average(tmp_path, "mean", files, [1, 2]) == (second, False)


def test_averages_without_words_say_nothing_of_them(tmp_path):
    path, _ = write_average(tmp_path, "mean", {"a": lora(1), "b": lora(2)}, [1, 1])
    assert words_of(path) is None
    assert not {WORDS_KEY, EMBEDDING_KEY} & read_lora(path).metadata.keys()
