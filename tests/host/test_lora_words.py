"""Apply LoRA with words: from the file itself or from the embeddings folder, and what the CLIP then reads."""

import json
import logging

import pytest
import torch

CORE_WARNING = "lora key not loaded"
WIDTHS = {"clip_l": 16, "clip_g": 24}
ROWS = {"TOK": 2, "STY": 3}


def rows(seed, count=5):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, width, generator=generator) for name, width in WIDTHS.items()}


@pytest.fixture
def write(kept_loras, embeddings_folder):
    """Writes a LoRA with words as a run writes it: layers, a list of its words, and their embeddings."""
    from safetensors.torch import load_file, save_file

    layers = load_file(kept_loras / "cat.safetensors")

    def run(name="cat", words=("TOK",), seed=1, where="file", with_layers=True, run="run-1"):
        vectors, stem, listed, start = rows(seed), f"{name}_emb", [], 0
        own = {}
        for word in words:
            listed.append([word, start, ROWS[word]])
            file = stem if len(words) == 1 else f"{stem}_{word.lower()}"
            own[file] = {key: table[start : start + ROWS[word]].clone() for key, table in vectors.items()}
            start += ROWS[word]
        metadata = {"sdxl_trainer_words": json.dumps(listed), "sdxl_trainer_embedding": stem}
        metadata["sdxl_trainer_run"] = "run-1"
        tensors = dict(layers) if with_layers else {}
        if where == "bundle":
            tensors |= {
                f"bundle_emb.{file}.{key}": v for file, parts in own.items() for key, v in parts.items()
            }
        save_file(tensors, kept_loras / f"{name}.safetensors", metadata)
        joint = {stem: {key: table[:start].clone() for key, table in vectors.items()}}
        for file, parts in ({**own, **joint} if where == "file" else {}).items():
            save_file(parts, embeddings_folder / f"{file}.safetensors", {"sdxl_trainer_run": run})

    return run


@pytest.fixture
def apply(stand_in):
    from sdxl_trainer.nodes.apply import ApplyLoRA

    def run(lora_name="cat.safetensors", clip=None, strength_clip=1.0, checkpoint_step=0, lora=None):
        model, wired, _ = stand_in
        with torch.inference_mode():
            made = ApplyLoRA.execute(
                model, clip or wired, lora_name, 1.0, strength_clip, checkpoint_step, lora
            )
        return made.args

    return run


def encode(clip, prompt):
    """ComfyUI's CLIP Text Encode: the two tensors of its only entry."""
    import nodes

    with torch.inference_mode():
        ((states, more),) = nodes.CLIPTextEncode().encode(clip, prompt)[0]
    return torch.cat([states.flatten(), more["pooled_output"].flatten()])


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a (TOK:1.2) at night", "a (embedding:cat_emb_tok:1.2) at night"),
        ("tok by STY", "embedding:cat_emb_tok by embedding:cat_emb_sty"),
    ],
)
def test_bundle_and_file_give_what_core_gives_for_the_embedding(apply, write, stand_in, prompt, named):
    write(words=("TOK", "STY"), where="file")
    expected = encode(stand_in[1], named)
    _, from_file, trigger_words, report = apply()
    assert torch.equal(encode(from_file, prompt), expected)
    assert trigger_words == "TOK, STY"
    assert report.splitlines()[1] == "CLIP knows TOK, STY, from cat_emb.safetensors"

    write(name="one", words=("TOK", "STY"), where="bundle")
    _, from_bundle, trigger_words, report = apply("one.safetensors")
    assert torch.equal(encode(from_bundle, prompt), expected)
    assert trigger_words == "TOK, STY"
    assert report.splitlines()[1] == "CLIP knows TOK, STY, from the LoRA file itself"


def test_a_single_words_embedding_has_the_loras_name(apply, write, stand_in):
    write()
    assert torch.equal(encode(apply()[1], "(TOK)"), encode(stand_in[1], "(embedding:cat_emb)"))


def test_an_earlier_checkpoint_has_vectors_of_its_own(apply, write, stand_in):
    write()
    write("cat-step000002", seed=2)
    early, late = apply(checkpoint_step=2), apply()
    assert early[3].splitlines()[1] == "CLIP knows TOK, from cat-step000002_emb.safetensors"
    assert torch.equal(encode(early[1], "a TOK"), encode(stand_in[1], "a embedding:cat-step000002_emb"))
    assert not torch.equal(encode(early[1], "a TOK"), encode(late[1], "a TOK"))


def test_a_wired_lora_brings_its_words_from_its_file(apply, write, stand_in, kept_loras):
    from sdxl_trainer.nodes.lora_model import TrainedLoRA, read_tensors

    write()
    path = kept_loras / "cat.safetensors"
    clip = apply("none", lora=TrainedLoRA(read_tensors(path), path))[1]
    assert torch.equal(encode(clip, "a TOK"), encode(stand_in[1], "a embedding:cat_emb"))


def test_core_is_not_handed_what_it_cannot_place(apply, write, kept_loras, caplog):
    from safetensors.torch import load_file

    plain = load_file(kept_loras / "cat.safetensors")
    write(where="bundle")
    with caplog.at_level(logging.WARNING):
        model, _, _, report = apply()
    assert CORE_WARNING not in caplog.text
    assert f"applied {len(plain)} keys" in report
    assert len(model.patches) == len([key for key in plain if key.endswith(".alpha")])


def test_core_itself_says_that_it_has_no_place_for_a_bundle(write, stand_in, caplog):
    """What the test above would see if the bundle were handed on."""
    import nodes

    write(where="bundle")
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        nodes.LoraLoader().load_lora(*stand_in[:2], "cat.safetensors", 1.0, 1.0)
    assert CORE_WARNING in caplog.text


def test_a_file_of_words_alone_is_applied_without_layers(apply, write, stand_in):
    write(where="bundle", with_layers=False)
    model, clip, trigger_words, report = apply()
    assert len(model.patches) == len(clip.patcher.patches) == 0
    assert trigger_words == "TOK"
    assert "applied 0 keys to 0 weights of the model and 0 of CLIP" in report
    write("same", where="file")
    assert torch.equal(encode(clip, "a TOK"), encode(stand_in[1], "a embedding:same_emb"))


def test_strength_0_on_clip_leaves_the_words_out_and_other_strengths_do_not_scale_them(
    apply, write, stand_in
):
    write()
    core = encode(stand_in[1], "a embedding:cat_emb")
    _, clip, trigger_words, report = apply(strength_clip=0.0)
    assert torch.equal(encode(clip, "a TOK"), encode(stand_in[1], "a TOK"))
    assert "knows" not in report
    assert trigger_words == ""
    assert torch.equal(encode(apply(strength_clip=0.5)[1], "a TOK"), core)


def test_words_of_two_loras_one_after_the_other_are_both_read(apply, write, stand_in):
    write("cat", ("TOK",), seed=1, where="bundle")
    write("ink", ("STY",), seed=2)
    write("cat2", ("TOK",), seed=1)
    clip = apply("ink.safetensors", clip=apply("cat.safetensors")[1])[1]
    expected = encode(stand_in[1], "embedding:cat2_emb by embedding:ink_emb")
    assert torch.equal(encode(clip, "TOK by STY"), expected)
    assert not torch.equal(encode(stand_in[1], "TOK by STY"), expected)


def test_a_trigger_phrase_of_the_file_goes_before_the_words(apply, write, kept_loras):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    write()
    path = kept_loras / "cat.safetensors"
    with safe_open(path, "pt") as file:
        metadata = {**file.metadata(), "modelspec.trigger_phrase": "a photo of TOK"}
    save_file(load_file(path), path, metadata)
    assert apply()[2] == "a photo of TOK"


def test_a_missing_embedding_is_refused_by_name_and_place(apply, write, embeddings_folder):
    from sdxl_trainer.trainer.errors import InputError

    write()
    (embeddings_folder / "cat_emb.safetensors").unlink()
    message = r"the new word TOK, .* cat_emb\.safetensors, .*: put it there \(ComfyUI: models/embeddings\)"
    with pytest.raises(InputError, match=message) as caught:
        apply()
    assert str(embeddings_folder) not in str(caught.value)
    assert apply(strength_clip=0.0)[0] is not None


def test_an_embedding_in_a_folder_of_the_embeddings_folder_is_found_as_core_finds_it(
    apply, write, embeddings_folder
):
    write()
    before = encode(apply()[1], "a TOK")
    (embeddings_folder / "mine").mkdir()
    (embeddings_folder / "cat_emb.safetensors").rename(embeddings_folder / "mine" / "cat_emb.safetensors")
    assert torch.equal(encode(apply()[1], "a TOK"), before)


@pytest.mark.parametrize("stem", ["../cat_emb", "mine/cat_emb", "mine/../../loras/cat", "..", "/etc/passwd"])
def test_only_a_plain_name_names_an_embedding(write, embeddings_folder, stem):
    from sdxl_trainer.nodes.comfy_bridge.folders import embedding_file

    write()
    (embeddings_folder / "mine").mkdir()
    (embeddings_folder / "mine" / "cat_emb.safetensors").write_bytes(b"another")
    assert embedding_file(stem) is None
    assert embedding_file("cat_emb") == embeddings_folder / "cat_emb.safetensors"


def test_an_embedding_of_another_run_is_read_and_said(apply, write):
    write(run="run-2")
    assert apply()[3].splitlines()[1] == (
        "CLIP knows TOK, from cat_emb.safetensors, which is of another run than the LoRA"
    )


def test_another_trainers_bundle_is_known_by_its_names(apply, kept_loras, embeddings_folder, stand_in):
    from safetensors.torch import load_file, save_file

    vectors, path = rows(7, 3), kept_loras / "cat.safetensors"
    bundle = {f"bundle_emb.zorpy.{key}": table for key, table in vectors.items()}
    save_file(load_file(path) | bundle, path)
    save_file(vectors, embeddings_folder / "other.safetensors")
    _, clip, trigger_words, _ = apply()
    assert trigger_words == "zorpy"
    assert torch.equal(encode(clip, "a zorpy"), encode(stand_in[1], "a embedding:other"))


def test_a_damaged_bundle_is_refused(apply, kept_loras, embeddings_folder):
    from safetensors.torch import load_file, save_file
    from sdxl_trainer.trainer.errors import InputError

    path = kept_loras / "cat.safetensors"
    save_file(load_file(path) | {"bundle_emb.zorpy.clip_l": torch.ones(2, 16)}, path)
    with pytest.raises(InputError, match=r"cat\.safetensors has an embedding 'zorpy' that holds clip_l"):
        apply()


def test_a_new_embedding_is_noticed_though_the_lora_stayed(write, embeddings_folder):
    from sdxl_trainer.nodes.apply import ApplyLoRA
    from sdxl_trainer.nodes.compare import CompareLoRAs

    write()
    before = [n.fingerprint_inputs(lora_name="cat.safetensors") for n in (ApplyLoRA, CompareLoRAs)]
    (embeddings_folder / "cat_emb.safetensors").unlink()
    after = [n.fingerprint_inputs(lora_name="cat.safetensors") for n in (ApplyLoRA, CompareLoRAs)]
    assert not set(before) & set(after)


def test_the_first_writable_embeddings_folder_is_taken(embeddings_folder, monkeypatch):
    import folder_paths
    from sdxl_trainer.nodes.comfy_bridge import folders

    (embeddings_folder / "file").write_text("in the way")
    places = [embeddings_folder / "file" / "embeddings", embeddings_folder / "new" / "embeddings"]
    entry = ([str(place) for place in places], {".safetensors"})
    registered = {**folder_paths.folder_names_and_paths, "embeddings": entry}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", registered)
    assert folders.embeddings_folder() == places[1]
    assert places[1].is_dir()


def test_every_node_says_alike_that_an_embedding_is_missing(apply, write, kept_loras, embeddings_folder):
    from sdxl_trainer.nodes.average import AverageLoRAs
    from sdxl_trainer.nodes.comfy_bridge.lora_words import words_of_file
    from sdxl_trainer.trainer.errors import InputError

    write()
    (embeddings_folder / "cat_emb.safetensors").unlink()
    said = set()
    for node in (
        *(apply, lambda: words_of_file(kept_loras / "cat.safetensors")),  # the latter: Compare, the trainers
        lambda: AverageLoRAs.execute("cat.safetensors", "2, final", "", ""),
    ):
        with pytest.raises(InputError) as caught:
            node()
        said.add(str(caught.value))
    assert len(said) == 1


@pytest.mark.parametrize("run", ["run-1", "run-2"])
def test_an_average_carries_the_words_and_says_so(apply, write, stand_in, run):
    from sdxl_trainer.nodes.average import AverageLoRAs

    write("cat-step000004", run=run)
    write("cat")
    with torch.inference_mode():
        lora, _, report = AverageLoRAs.execute("cat.safetensors", "4, final", "", "").args
    assert "It holds the vectors of the word TOK itself: Apply LoRA is enough" in report.splitlines()
    assert ("from cat-step000004_emb.safetensors, which is of another run" in report) == (run == "run-2")
    clip = apply("none", lora=lora)[1]
    assert torch.equal(encode(clip, "a TOK"), encode(stand_in[1], "a embedding:cat_emb"))
