import json

import pytest
import safetensors
import safetensors.torch
import torch
from sdxl_trainer.trainer.config import LoRAConfig
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.files.embedding_file import (
    EMBEDDING_KEY,
    WORDS_KEY,
    bundle,
    check_embedding_name,
    embedding_files,
    read_words,
    word_metadata,
    write_embeddings,
)
from sdxl_trainer.trainer.files.lora_file import LoRAFile, read_lora, write_lora
from sdxl_trainer.trainer.text.new_tokens import NewTokens

ONE = NewTokens((("TOK", 2),))
TWO = NewTokens((("TOK", 2), ("My-Style", 3)))
PATH = "mid_block.attentions.0.proj_in"


def drawn(new_tokens, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return {
        "clip_l": torch.randn(new_tokens.total, 768, generator=draw),
        "clip_g": torch.randn(new_tokens.total, 1280, generator=draw),
    }


def lora_with_words(path, new_tokens, stem="cat_emb", bundled=None, layers=True):
    draw = torch.Generator().manual_seed(5)
    state = {
        f"{PATH}.lora_down": torch.randn(4, 1280, generator=draw),
        f"{PATH}.lora_up": torch.randn(1280, 4, generator=draw),
    }
    metadata = word_metadata(stem, new_tokens)
    write_lora(path, state if layers else {}, LoRAConfig(rank=4), metadata, bundled=bundled)
    return read_lora(path)


def in_folder(folder):
    def find(stem):
        path = folder / f"{stem}.safetensors"
        return path if path.exists() else None

    return find


def nowhere(_stem):
    return None


def assert_words(words, expected):
    assert list(words.vectors) == list(expected)
    for word, vectors in expected.items():
        assert words.vectors[word].keys() == vectors.keys()
        assert all(torch.equal(words.vectors[word][key], x) for key, x in vectors.items())


def test_one_word_is_one_file_with_both_encoders(tmp_path):
    vectors = drawn(ONE)
    paths = write_embeddings(tmp_path, "cat_emb", vectors, ONE, {"ss_output_name": "cat"})
    assert paths == [tmp_path / "cat_emb.safetensors"]
    assert list(tmp_path.iterdir()) == paths
    with safetensors.safe_open(paths[0], "pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == {"clip_l", "clip_g"}
        assert all(torch.equal(file.get_tensor(key), x) for key, x in vectors.items())
    assert json.loads(metadata["sdxl_trainer_words"]) == [["TOK", 0, 2]]
    assert metadata["sdxl_trainer_embedding"] == "cat_emb"
    assert metadata["ss_output_name"] == "cat"
    assert metadata["modelspec.hash_sha256"] == "0x" + metadata["sshs_model_hash"]


def test_several_words_have_a_file_each_beside_the_one_of_all(tmp_path):
    vectors = drawn(TWO)
    metadata = {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    paths = write_embeddings(tmp_path, "cat_emb", vectors, TWO, metadata)
    rows = {"cat_emb": (0, 5), "cat_emb_tok": (0, 2), "cat_emb_my-style": (2, 5)}
    assert [path.stem for path in paths] == list(rows)
    words = {
        "cat_emb": [["TOK", 0, 2], ["My-Style", 2, 3]],
        "cat_emb_tok": [["TOK", 0, 2]],
        "cat_emb_my-style": [["My-Style", 0, 3]],
    }
    for path in paths:
        start, end = rows[path.stem]
        with safetensors.safe_open(path, "pt") as file:
            found = file.metadata()
            assert all(torch.equal(file.get_tensor(key), x[start:end]) for key, x in vectors.items())
        assert json.loads(found[WORDS_KEY]) == words[path.stem]
        assert found[EMBEDDING_KEY] == path.stem
        assert found["modelspec.architecture"] == "stable-diffusion-xl-v1-base/textual-inversion"


def test_what_is_written_is_what_embedding_files_says_and_always_the_same_bytes(tmp_path):
    vectors = {key: x.double().requires_grad_() for key, x in drawn(TWO).items()}
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_embeddings(tmp_path / folder, "cat_emb", vectors, TWO, {})
    for stem, tensors in embedding_files("cat_emb", vectors, TWO).items():
        files = [tmp_path / folder / f"{stem}.safetensors" for folder in ("a", "b")]
        assert files[0].read_bytes() == files[1].read_bytes()
        written = safetensors.torch.load_file(files[0])
        assert written.keys() == tensors.keys()
        assert all(torch.equal(written[key], x) and x.dtype == torch.float32 for key, x in tensors.items())


@pytest.mark.parametrize("new_tokens", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("layers", [True, False])
@pytest.mark.parametrize("has_bundle", [True, False])
def test_words_are_read_back_from_the_bundle_or_from_the_file(tmp_path, new_tokens, layers, has_bundle):
    if not layers and not has_bundle:
        pytest.skip("there is no such file")
    vectors = drawn(new_tokens)
    lora = lora_with_words(
        tmp_path / "cat.safetensors",
        new_tokens,
        bundled=bundle("cat_emb", vectors, new_tokens) if has_bundle else None,
        layers=layers,
    )
    assert bool(lora.names) == layers
    write_embeddings(tmp_path, "cat_emb", vectors, new_tokens, {})
    words = read_words(lora, nowhere if has_bundle else in_folder(tmp_path))
    rows = {word: new_tokens.rows(word) for word, _ in new_tokens.words}
    assert_words(words, {w: {k: x[r.start : r.stop] for k, x in vectors.items()} for w, r in rows.items()})


def test_the_bundle_comes_before_a_file_of_that_name(tmp_path):
    vectors = drawn(ONE, seed=1)
    lora = lora_with_words(tmp_path / "cat.safetensors", ONE, bundled=bundle("cat_emb", vectors, ONE))
    write_embeddings(tmp_path, "cat_emb", drawn(ONE, seed=2), ONE, {})
    assert_words(read_words(lora, in_folder(tmp_path)), {"TOK": vectors})


def test_keys_of_a_bundle_are_those_a1111_reads():
    assert bundle("cat_emb", drawn(ONE), ONE).keys() == {
        "bundle_emb.cat_emb.clip_l",
        "bundle_emb.cat_emb.clip_g",
    }
    assert bundle("cat_emb", drawn(TWO), TWO).keys() == {
        "bundle_emb.cat_emb_tok.clip_l",
        "bundle_emb.cat_emb_tok.clip_g",
        "bundle_emb.cat_emb_my-style.clip_l",
        "bundle_emb.cat_emb_my-style.clip_g",
    }


def test_a_bundle_of_another_trainer_is_known_by_its_names():
    vectors = drawn(ONE)
    lora = LoRAFile({f"bundle_emb.sks.cat.{key}": x for key, x in vectors.items()}, {})
    assert_words(read_words(lora, nowhere), {"sks.cat": vectors})


def test_a_lora_without_words_has_none(tmp_path):
    write_embeddings(tmp_path, "cat_emb", drawn(ONE), ONE, {})
    assert read_words(LoRAFile({}, {EMBEDDING_KEY: "cat_emb"}), in_folder(tmp_path)) is None


def test_words_without_vectors_are_refused_with_the_files_name(tmp_path):
    lora = lora_with_words(tmp_path / "cat.safetensors", TWO)
    with pytest.raises(InputError, match=r"words TOK, My-Style, .* cat_emb\.safetensors, which is not among"):
        read_words(lora, in_folder(tmp_path))
    del lora.metadata[EMBEDDING_KEY]
    with pytest.raises(InputError, match="which is not among the embeddings"):
        read_words(lora, in_folder(tmp_path))


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"clip_l": (2, 768)}, "holds clip_l, but one for SDXL holds clip_l and clip_g"),
        ({"emb_params": (2, 768)}, "holds emb_params, but one for SDXL"),
        (
            {"clip_l": (2, 1280), "clip_g": (2, 768)},
            r"is not for SDXL: clip_l is \(2, 1280\) and clip_g \(2, 768",
        ),
        ({"clip_l": (2, 768), "clip_g": (2, 768)}, "is not for SDXL"),
        ({"clip_l": (768,), "clip_g": (1280,)}, "is not for SDXL"),
        ({"clip_l": (2, 768), "clip_g": (3, 1280)}, "has 2 rows in clip_l and 3 in clip_g"),
        ({"clip_l": (0, 768), "clip_g": (0, 1280)}, "has 0 rows in clip_l"),
        ({"clip_l": (3, 768), "clip_g": (3, 1280)}, "holds 3 tokens, but the LoRA was trained with 2"),
    ],
)
def test_an_embedding_that_does_not_fit_is_named_for_what_it_is(tmp_path, tensors, words):
    lora = lora_with_words(tmp_path / "cat.safetensors", ONE)
    file = tmp_path / "cat_emb.safetensors"
    safetensors.torch.save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, file)
    with pytest.raises(InputError, match=words):
        read_words(lora, in_folder(tmp_path))


def test_numbers_that_are_not_finite_are_neither_written_nor_read(tmp_path):
    vectors = drawn(ONE)
    vectors["clip_g"][1, 3] = float("nan")
    with pytest.raises(InputError, match="clip_g holds numbers that are not finite: it is not written"):
        write_embeddings(tmp_path, "cat_emb", vectors, ONE, {})
    assert not list(tmp_path.iterdir())
    safetensors.torch.save_file(vectors, tmp_path / "cat_emb.safetensors")
    lora = lora_with_words(tmp_path / "cat.safetensors", ONE)
    with pytest.raises(InputError, match="not finite"):
        read_words(lora, in_folder(tmp_path))
    with pytest.raises(InputError, match="not finite"):
        lora_with_words(tmp_path / "b.safetensors", ONE, bundled=bundle("cat_emb", vectors, ONE))


def test_a_pickle_in_an_embeddings_place_is_not_opened(tmp_path):
    lora = lora_with_words(tmp_path / "cat.safetensors", ONE)
    torch.save(drawn(ONE), tmp_path / "cat_emb.safetensors")
    with pytest.raises(InputError, match="is a pickle"):
        read_words(lora, in_folder(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        *("", "[", "{}", "[]", "null", "3", '["TOK"]', '[["TOK", 0]]', '[["TOK", 0, 0]]', '[["", 0, 2]]'),
        *('[["TOK", 1, 2]]', '[["TOK", 0, 2], ["B", 3, 1]]', '[["TOK", 0, 2], ["tok", 2, 1]]'),
        *('[["TOK", -1, 2]]', '[["TOK", 0, 1000000]]', '[["TOK", 0, 2.5]]', '[["TOK", true, 2]]', "[" * 9000),
    ],
)
def test_a_damaged_list_of_words_is_refused(tmp_path, text):
    write_embeddings(tmp_path, "cat_emb", drawn(ONE), ONE, {})
    lora = LoRAFile({}, {WORDS_KEY: text, EMBEDDING_KEY: "cat_emb"})
    with pytest.raises(InputError, match="list of words is damaged"):
        read_words(lora, in_folder(tmp_path))


def test_a_bundle_that_lacks_a_word_is_refused(tmp_path):
    bundled = bundle("cat_emb", drawn(TWO), TWO)
    half = {key: x for key, x in bundled.items() if "my-style" not in key}
    lora = lora_with_words(tmp_path / "cat.safetensors", TWO, bundled=half)
    with pytest.raises(
        InputError, match="My-Style stands for 3 tokens, but its embedding 'cat_emb_my-style' has none"
    ):
        read_words(lora, nowhere)
    short = {key: x[:2] for key, x in bundled.items()}
    lora = lora_with_words(tmp_path / "cat.safetensors", TWO, bundled=short)
    with pytest.raises(InputError, match="stands for 3 tokens, but its embedding 'cat_emb_my-style' has 2"):
        read_words(lora, nowhere)


def test_an_embedding_stays_in_its_folder(tmp_path):
    (tmp_path / "inner").mkdir()
    with pytest.raises(InputError, match="leads out of the folder"):
        write_embeddings(tmp_path / "inner", "../cat_emb", drawn(ONE), ONE, {})


@pytest.mark.parametrize("name", ["cat", "My_cat-2", "007", "_", "cat-step000500"])
def test_names_that_a_prompt_can_hold(name):
    check_embedding_name(name)


@pytest.mark.parametrize(
    "name", ["", "my cat", "cat.v2", "cat,", "cat:1", "(cat)", "kät", "cat\n", "a/b", "猫"]
)
def test_names_that_a_prompt_cannot_hold_are_refused(name):
    with pytest.raises(InputError, match="use only the letters A to Z, digits, - and _"):
        check_embedding_name(name)
