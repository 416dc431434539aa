"""Each class of captioning model, small and random, through the loader, its processor and `generate`."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from sdxl_trainer.trainer.captioning import captioner as captioners
from sdxl_trainer.trainer.captioning import text_captioner
from sdxl_trainer.trainer.captioning.captioner import check_style, load_captioner
from sdxl_trainer.trainer.captioning.checkpoint_folder import CheckpointFolder
from sdxl_trainer.trainer.captioning.own_randomness import own_randomness
from sdxl_trainer.trainer.captioning.text_captioner import generate_arguments, new_tokens
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.settings.captioner_config import GenerationConfig

pytest.importorskip("transformers")


def _tiny_captioners():
    place = Path(__file__).with_name("tiny_captioners.py")
    spec = importlib.util.spec_from_file_location("tiny_captioners", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_captioners"] = module
    spec.loader.exec_module(module)
    return module


tiny = _tiny_captioners()
KINDS = tuple(tiny.WRITERS)
CHATS = ("qwen2_vl", "smolvlm", "llava")
SHORT = GenerationConfig(max_tokens=12, min_tokens=6)
STYLES = {
    "blip": ("short",),
    "blip-2": ("short", "custom"),
    "florence2": ("short", "detailed", "custom"),
    **dict.fromkeys(CHATS, ("short", "detailed", "tags", "custom")),
}


def picture(colour):
    drawn = Image.new("RGB", (70, 50), "white")
    ImageDraw.Draw(drawn).ellipse((5, 5, 45, 45), fill=colour)
    return drawn


RED, BLUE = picture("red"), picture("blue")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("captioners")
    return {kind: write(root / kind) for kind, write in tiny.WRITERS.items()}


@pytest.fixture(scope="module")
def loaded(folders):
    return {kind: load_captioner(folder, kind) for kind, folder in folders.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_each_class_describes_pictures_in_each_of_its_styles(loaded, kind):
    captioner = loaded[kind]
    assert captioner.styles == STYLES[kind]
    assert not captioner.module.training
    assert {p.device.type for p in captioner.module.parameters()} == {"cpu"}
    question = "<DETAILED_CAPTION>" if kind == "florence2" else "which colour is it ?"
    for style in captioner.styles:
        texts = [captioner.caption(one, style, question, SHORT) for one in (RED, BLUE)]
        assert all(texts), style
        assert texts == [captioner.caption(one, style, question, SHORT) for one in (RED, BLUE)]
        for text in texts:
            assert text == " ".join(text.split())
            assert not any(sign in text for sign in ("<|", "</s>", "<image>", "<s>", "[SEP]", "assistant\n"))
    first = captioner.styles[0]
    assert captioner.caption(RED, first, "", SHORT) != captioner.caption(BLUE, first, "", SHORT)


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_words_follow_the_seed_and_leave_global_random_numbers_alone(loaded, kind):
    def text(seed):
        config = GenerationConfig(max_tokens=16, temperature=1.2, top_p=1.0, seed=seed)
        return loaded[kind].caption(RED, "short", "", config)

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = text(1)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(99)
    assert text(1) == first
    assert len({first, text(2), text(3)}) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_is_as_long_as_it_may_be(loaded, kind, monkeypatch):
    written = []
    monkeypatch.setattr(
        sys.modules[type(loaded[kind]).__module__],
        "new_tokens",
        lambda tokens, prompt: written.append(new_tokens(tokens, prompt)) or written[-1],
    )
    tokenizer = loaded[kind]._processor.tokenizer
    lengths = []
    for least, most in ((0, 4), (9, 9)):
        loaded[kind].caption(RED, "short", "", GenerationConfig(max_tokens=most, min_tokens=least))
        words = [tokenizer.decode([token], skip_special_tokens=True) for token in written[-1]]
        lengths.append(len([word for word in words if word]))
    assert lengths[0] <= 4
    assert 4 < lengths[1] <= 9  # a sign that is no word counts as a token


@pytest.mark.parametrize("kind", ["blip-2", *CHATS])
def test_a_question_reaches_the_model_as_its_words(loaded, kind):
    captioner = loaded[kind]
    ids = [
        captioner.model_inputs(RED, "custom", question)["input_ids"][0]
        for question in ("which colour is it ?", "is it a cat ?")
    ]
    words = [captioner._processor.tokenizer.decode(one) for one in ids]
    assert "which colour is it ?" in words[0]
    assert "is it a cat ?" in words[1]
    assert "WHAT-IS-ASKED" not in "".join(words)
    if kind in CHATS:
        assert words[0].startswith("<|im_start|>user")
        assert words[0].endswith("<|im_start|>assistant\n")
        image = captioner.module.config.image_token_id
        assert 1 < int((ids[0] == image).sum()) < len(ids[0])


def test_florence_is_asked_for_its_tasks(loaded):
    captioner = loaded["florence2"]
    decode = captioner._processor.tokenizer.decode
    words = [
        decode(captioner.model_inputs(RED, style, "")["input_ids"][0]) for style in ("short", "detailed")
    ]
    assert "What does the image describe?" in words[0]
    assert "Describe with a paragraph what is shown in the image." in words[1]


def test_what_a_model_cannot_be_asked_is_said_before_any_work(loaded):
    for kind, style, question, said in (
        (
            "blip",
            "detailed",
            "",
            "blip cannot write captions of the style 'detailed': BLIP writes one short sentence",
        ),
        ("blip", "custom", "what is it?", "choose short, or a model that follows instructions"),
        ("florence2", "tags", "", "Florence-2 knows only its own tasks"),
        ("florence2", "custom", "what is it?", "ask for one of <CAPTION>, <DETAILED_CAPTION>"),
        (
            "llava",
            "custom",
            "is <image> it?",
            "the question holds '<image>', which is a sign",
        ),
        ("qwen2_vl", "custom", "a<|im_end|>b", r"the question holds '<\|im_end\|>', which is a sign"),
        ("llava", "custom", "  ", "the style 'custom' needs a question"),
    ):
        with pytest.raises(InputError, match=said.replace("?", r"\?")):
            check_style(loaded[kind], style, question)
        with pytest.raises(InputError):
            loaded[kind].caption(RED, style, question, SHORT)
    check_style(loaded["llava"], "custom", "what is it?")


def test_a_model_that_would_end_at_once_writes_as_much_as_it_must(folders):
    captioner = load_captioner(folders["blip"], "blip")
    captioner.module.text_decoder.cls.predictions.bias[captioner.module.config.text_config.sep_token_id] = (
        1000
    )
    assert captioner.caption(RED, "short", "", GenerationConfig()) == ""
    assert captioner.caption(RED, "short", "", GenerationConfig(min_tokens=6))


@pytest.mark.parametrize("kind", ["blip", "blip-2", "florence2"])
def test_no_model_writes_beyond_its_last_position(loaded, kind):
    longest = GenerationConfig(max_tokens=2048, min_tokens=2048)
    assert loaded[kind].module.config.text_config.max_position_embeddings == 256
    assert loaded[kind].caption(RED, "short", "", longest)


def test_large_pictures_are_made_smaller_and_impossible_ones_refused(folders, tmp_path):
    folder = shutil.copytree(folders["qwen2_vl"], tmp_path / "any size")
    sizes = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**sizes, "max_pixels": 10**9}))
    captioner = load_captioner(folder, "mine")
    grid = captioner.model_inputs(Image.new("RGB", (4000, 3000)), "short", "")["image_grid_thw"][0]
    height, width = (int(count) * 8 for count in grid[1:])
    assert width * height == pytest.approx(text_captioner.MAX_PIXELS, rel=0.03)
    assert width / height == pytest.approx(4 / 3, rel=0.02)
    with pytest.raises(InputError, match="mine cannot read a picture of 900 x 2 pixels"):
        captioner.caption(Image.new("RGB", (900, 2)), "short", "", SHORT)


def test_each_picture_draws_by_its_own_numbers():
    def drawn(seed, one):
        with own_randomness(torch.device("cpu"), seed, one):
            return float(torch.rand(()))

    assert drawn(1, RED) == drawn(1, RED.copy())
    assert len({drawn(1, RED), drawn(1, BLUE), drawn(2, RED)}) == 3


class Speaker:
    """Puts given words into a real model's `generate`, ended by the sign of the end where there is room."""

    def __init__(self, captioner, monkeypatch):
        self.captioner, self.text = captioner, ""
        monkeypatch.setattr(captioner.module, "generate", self.generate)

    def generate(self, max_new_tokens, **inputs):
        tokenizer = self.captioner._processor.tokenizer
        ids = tokenizer(self.text, add_special_tokens=False)["input_ids"]
        written = [*ids, tokenizer.eos_token_id or tokenizer.sep_token_id][:max_new_tokens]
        return torch.tensor([[*inputs["input_ids"][0].tolist(), *written]])

    def says(self, text, style, room):
        """`room`: tokens more than the words have; below 1 they are cut off."""
        self.text = text
        length = len(self.captioner._processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self.captioner.caption(RED, style, "what?", GenerationConfig(max_tokens=length + room))


@pytest.mark.parametrize("kind", KINDS)
def test_each_class_tells_whether_it_stopped_for_its_length(loaded, kind, monkeypatch):
    heard = []
    monkeypatch.setattr(text_captioner, "without_cut_off_end", lambda text, style: heard.append(text) or text)
    captioner = loaded[kind]
    captioner.caption(RED, "short", "", GenerationConfig(max_tokens=8, min_tokens=8))
    assert len(heard) == 1
    # the sign of the end is made the likeliest after the words that must be there
    ends = captioner.module.generation_config.eos_token_id or captioner.module.config.text_config.sep_token_id
    ends = set(ends) if isinstance(ends, list) else {ends}
    generate = captioner.module.generate

    def end(ids, scores):
        scores[:, sorted(ends)] = 1e6
        return scores

    monkeypatch.setattr(captioner.module, "generate", lambda **all: generate(**all, logits_processor=[end]))
    captioner.caption(RED, "short", "", GenerationConfig(max_tokens=8))
    assert len(heard) == 1


def test_a_caption_that_stopped_for_its_length_ends_with_a_whole_sentence_or_tag(loaded, monkeypatch):
    speaker = Speaker(loaded["qwen2_vl"], monkeypatch)
    text = "a red circle. it is on green paper. and a blue"
    assert speaker.says(text, "detailed", 1) == text  # it came to its end by itself
    assert speaker.says(text, "detailed", 0) == "a red circle. it is on green paper."
    assert speaker.says(text, "short", 0) == "a red circle. it is on green paper."
    assert speaker.says(text, "custom", 0) == text
    assert speaker.says("red circle, green paper, blu", "tags", 0) == "red circle, green paper"
    assert speaker.says("no mark at all", "detailed", 0) == "no mark at all"


def test_beams_and_a_penalty_change_what_is_written(loaded):
    captioner = loaded["qwen2_vl"]
    configs = ({}, {"num_beams": 4}, {"repetition_penalty": 3.0})
    texts = [captioner.caption(RED, "short", "", GenerationConfig(max_tokens=16, **c)) for c in configs]
    assert len(set(texts)) == 3


def test_settings_of_drawing_reach_generate_only_when_words_are_drawn():
    greedy = generate_arguments(GenerationConfig(top_p=0.5, top_k=7), 99)
    drawn = generate_arguments(GenerationConfig(temperature=0.7, top_p=0.5, top_k=7), 99)
    names = ("do_sample", "temperature", "top_p", "top_k")
    assert [greedy[n] for n in names] == [False, None, None, None]
    assert [drawn[n] for n in names] == [True, 0.7, 0.5, 7]


def test_the_precision_is_the_checkpoints_own_except_on_the_cpu(folders, tmp_path):
    folder = shutil.copytree(folders["blip"], tmp_path / "half")
    weights = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    expected = {
        ("auto", "cpu"): torch.float32,
        ("auto", "cuda"): torch.float16,
        ("bf16", "cpu"): torch.bfloat16,
        ("fp32", "cuda"): torch.float32,
    }
    for (precision, device), dtype in expected.items():
        module = load_captioner(folder, "half", precision, torch.device(device)).module
        assert {p.dtype for p in module.parameters()} == {dtype}, (precision, device)
        assert next(module.parameters()).device.type == "cpu"


@pytest.mark.parametrize("kind", KINDS)
def test_each_class_works_in_half_precision(folders, kind):
    captioner = load_captioner(folders[kind], kind, "bf16")
    assert captioner.caption(RED, "short", "", SHORT)


def test_the_identity_follows_the_weights_and_the_words(folders, tmp_path):
    def identity(folder):
        return load_captioner(folder, "x").identity

    original = identity(folders["blip"])
    copy = shutil.copytree(folders["blip"], tmp_path / "elsewhere")
    assert identity(copy) == original
    weights = load_file(copy / "model.safetensors")
    weights["vision_model.post_layernorm.weight"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    changed = identity(copy)
    assert changed != original
    preprocessing = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(
        json.dumps({**preprocessing, "image_mean": [0.1, 0.5, 0.5]})
    )
    assert identity(copy) not in (original, changed)


JOYCAPTION_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'user' %}<image>"
    "{{ m['content'].lstrip() }}{% else %}{{ m['content'] }}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


def test_a_template_that_takes_plain_text_and_places_the_picture_itself_works(folders, tmp_path):
    folder = shutil.copytree(folders["llava"], tmp_path / "joycaption")
    (folder / "chat_template.jinja").write_text(JOYCAPTION_TEMPLATE)
    captioner = load_captioner(folder, "joycaption")
    ids = captioner.model_inputs(RED, "tags", "")["input_ids"][0]
    words = captioner._processor.tokenizer.decode(ids)
    assert words.startswith("<|im_start|>system\nYou are a helpful image captioner.<|im_end|>")
    assert "Booru-like tags" in words
    assert int((ids == captioner.module.config.image_token_id).sum()) == 16
    assert captioner.caption(RED, "tags", "", SHORT)


def test_without_a_chat_template_llava_is_asked_in_its_first_form_and_others_are_refused(folders, tmp_path):
    for kind in ("llava", "qwen2_vl"):
        (shutil.copytree(folders[kind], tmp_path / kind) / "chat_template.jinja").unlink()
    captioner = load_captioner(tmp_path / "llava", "llava")
    ids = captioner.model_inputs(RED, "custom", "is it a cat ?")["input_ids"][0]
    words = captioner._processor.tokenizer.decode(ids)
    assert words == f"USER: {'<image>' * 16}\nis it a cat ? ASSISTANT:"
    assert captioner.caption(RED, "custom", "is it a cat ?", SHORT)
    with pytest.raises(InputError, match="qwen2_vl has no chat template"):
        load_captioner(tmp_path / "qwen2_vl", "qwen2_vl")


def test_a_template_without_a_place_for_the_picture_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["llava"], tmp_path / "odd")
    (folder / "chat_template.jinja").write_text("always the same")
    with pytest.raises(InputError, match="odd has a chat template that takes no picture and question"):
        load_captioner(folder, "odd")


def write(folder, **files):
    for name, text in files.items():
        place = folder / name.replace("__", ".")
        place.unlink(missing_ok=True)
        if text is not None:
            place.write_text(text)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"config__json": None}, "holds no config.json"),
        ({"config__json": None, "model__gguf": "x"}, "holds GGUF weights"),
        ({"config__json": None, "adapter_config__json": "{}"}, "is a LoRA for a captioning model"),
        ({"adapter_config__json": "{}"}, "holds a LoRA beside the model .adapter_config.json."),
        ({"config__json": None, "model_index__json": "{}"}, "draws pictures, not one that describes them"),
        ({"config__json": "{"}, "is not readable JSON"),
        ({"config__json": "{}"}, "names no model_type"),
        ({"config__json": '{"model_type": "nobody_knows"}'}, "which transformers .* does not know: update"),
        (
            {"config__json": '{"model_type": "moondream1", "auto_map": {}}'},
            "only with program code from its repo",
        ),
        ({"config__json": '{"model_type": "florence2", "auto_map": {}}'}, "choose florence-2-base"),
        ({"config__json": '{"model_type": "clip"}'}, "'clip', which writes no text about pictures"),
        ({"config__json": '{"model_type": "llama"}'}, "'llama', which writes text but sees no pictures"),
        ({"model__safetensors": None}, "holds no weights"),
        ({"model__safetensors": None, "pytorch_model__bin": "x"}, "holds only pickled weights"),
        ({"model__safetensors": None, "model-Q4__gguf": "x"}, "holds GGUF weights"),
        ({"model__safetensors": "damaged"}, "is no whole safetensors file"),
        (
            {"preprocessor_config__json": None, "processor_config__json": None},
            "lacks preprocessor_config.json",
        ),
        (
            {"tokenizer__json": None, "tokenizer_config__json": None, "vocab__txt": None},
            "lacks its tokenizer",
        ),
        ({"tokenizer__json": "{", "vocab__txt": None}, "is damaged, incomplete or of another version"),
    ],
)
def test_what_writes_no_captions_is_refused_in_one_sentence(folders, tmp_path, files, said):
    folder = shutil.copytree(folders["blip"], tmp_path / "mine")
    write(folder, **files)
    with pytest.raises(InputError, match=said) as caught:
        load_captioner(folder, "mine")
    assert "mine" in str(caught.value) or "model.safetensors" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [
        {"attn_implementation": "flash_attention_2"},
        {"attn_implementation": "somebody/kernel", "experts_implementation": "sonicmoe"},
        {"_attn_implementation": "kernels-community/flash-attn@main:forward"},
        {"_attn_implementation_internal": "flash_attention_3"},
        {"text_config": {"attn_implementation": {"": "somebody/kernel"}}},
        {"vision_config": {"_attn_implementation": "paged|flash_attention_2"}},
        {"a_part": {"parts": [{"attn_implementation": "somebody/kernel"}]}},
    ],
)
def test_no_choice_of_attention_in_a_config_survives(folders, tmp_path, asked):
    """The package `kernels` would fetch programs for them, and run them."""
    folder = shutil.copytree(folders["llava"], tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    for name, value in asked.items():
        config[name] = {**config[name], **value} if name in config else value
    (folder / "config.json").write_text(json.dumps(config))
    captioner = load_captioner(folder, "mine")
    parts = [part for part in captioner.module.modules() if hasattr(part, "config")]
    assert {part.config._attn_implementation for part in parts} <= {"sdpa", "eager"} and len(parts) > 3
    assert not any(word in str(captioner.module.config.to_dict()) for word in ("flash", "kernel", "sonic"))
    assert captioner.caption(RED, "short", "", SHORT)


@pytest.mark.parametrize("place", ["", "text_config"])
@pytest.mark.parametrize("form", ["fp8", "mxfp4", "eetq", "nobody_knows"])
def test_packed_weights_that_need_programs_of_the_hub_are_refused(folders, tmp_path, form, place):
    folder = shutil.copytree(folders["llava"], tmp_path / "mine")
    config = json.loads((folder / "config.json").read_text())
    (config[place] if place else config)["quantization_config"] = {"quant_method": form}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"mine has its weights packed as '{form}', for which"):
        load_captioner(folder, "mine")


def test_missing_parts_and_missing_weights_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["blip"], tmp_path / "mine")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="2 of its 2 files of weights are missing"):
        load_captioner(folder, "mine")
    (folder / "model.safetensors.index.json").unlink()
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("vision_model")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"mine lacks .* of its weights .* would write nonsense"):
        load_captioner(folder, "mine")


def test_a_missing_package_is_named(folders, tmp_path, monkeypatch):
    def lacking(*_, **__):
        raise ImportError("Gemma3Processor requires the sentencepiece library but it was not found")

    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lacking)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lacking)
    with pytest.raises(InputError, match=r"needs the package sentencepiece, .* `pip install sentencepiece`"):
        load_captioner(folders["llava"], "x")


def test_weights_in_a_packed_form_name_their_package(folders, tmp_path):
    folder = shutil.copytree(folders["llava"], tmp_path / "packed")
    config = json.loads((folder / "config.json").read_text())
    packed = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": packed}))
    with pytest.raises(InputError, match=r"packed needs a package that is missing \("):
        load_captioner(folder, "packed")


def test_what_a_library_says_is_passed_on_without_the_place(tmp_path):
    found = CheckpointFolder(tmp_path, "mine", {}, ())
    said = found.first_words(OSError(f"Can't load {tmp_path}/tokenizer.json\nmore"))
    assert said == "Can't load mine/tokenizer.json"
    assert len(found.first_words(ValueError("x" * 1000))) < 200


def test_the_protocol_is_what_models_have(loaded):
    for captioner in loaded.values():
        for name in captioners.Captioner.__annotations__:
            assert hasattr(captioner, name)
