"""Captioning models of a few thousand random weights, on disk as the hub has them.

Each is made from its real configuration class and saved with a real tokenizer and image processor, so that
the loading, the prompts and `generate` are those of the large ones. What they write is gibberish, but it
depends on the picture, the question and the seed. Usable from any test: plain functions of a folder.
"""

import csv
import json

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoImageProcessor, PreTrainedTokenizerFast

TEXT = (
    "a red circle and a blue square on green paper with yellow stripes in front of the white house . "
    "describe what is shown here , please : long hair , short answer , one sentence ? which colour is it "
    "write comma separated tags for this picture of 2 cats under an old tree by night "
    "User Assistant system user assistant"
)
SIDE = 32
"""Side of the pictures that the models see, pixels."""


def _save(model, folder, seed=7, spread=0.35):
    """Random weights that are wide enough for the picture to decide the words."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, spread, generator=generator)
            elif "norm" in name.lower() and name.endswith("weight"):
                weight.fill_(1)
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def _tokenizer(special, chat_template=None, **named):
    """Byte-level pieces learned from TEXT; `special` tokens are single ids."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted({chr(code) for code in range(33, 127)} | {"Ġ", "Ċ"})
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=list(special), show_progress=False
    )
    raw.train_from_iterator([TEXT] * 5, trainer)
    raw.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=raw, chat_template=chat_template, **named)


def _named(folder, processor, **values):
    """The processor's own file, in the form that AutoProcessor reads."""
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": processor, **values}), "utf-8"
    )


def _image_processor(folder, kind, **values):
    """The image processor's own file, in the form that the hub's repositories have."""
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": kind, **values}), "utf-8"
    )
    AutoImageProcessor.from_pretrained(folder, local_files_only=True)


_SQUARE = {
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}


def write_tiny_blip(folder):
    """BlipForConditionalGeneration with BERT's word pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*dict.fromkeys(word.lower() for word in TEXT.split())]
    pieces = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    vocabulary = [*dict.fromkeys([*special, *words, *pieces])]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    _image_processor(folder, "BlipImageProcessor", **_SQUARE)
    _named(folder, "BlipProcessor")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BlipConfig(
        text_config={
            **sizes,
            # the token of the beginning is none of the tokenizer's, as in the published weights
            "vocab_size": len(vocabulary) + 1,
            "encoder_hidden_size": 32,
            "projection_dim": 16,
            "max_position_embeddings": 256,
            "pad_token_id": 0,
            "bos_token_id": len(vocabulary),
            "eos_token_id": 2,
            "sep_token_id": 3,
        },
        vision_config={**sizes, "image_size": SIDE, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    model = transformers.BlipForConditionalGeneration(config)
    with torch.no_grad():  # it never ends by itself, and draws no sign that stands for no word
        model.text_decoder.cls.predictions.bias[[*range(len(special)), len(vocabulary)]] = -1000
    return _save(model, folder, spread=0.2)


def write_tiny_blip2(folder):
    """Blip2ForConditionalGeneration around OPT."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(
        ["<pad>", "</s>", "<image>"], pad_token="<pad>", eos_token="</s>", bos_token="</s>", unk_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    _image_processor(folder, "BlipImageProcessor", **_SQUARE)
    _named(folder, "Blip2Processor", num_query_tokens=4)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.Blip2Config(
        vision_config={**sizes, "image_size": SIDE, "patch_size": 8},
        qformer_config={**sizes, "vocab_size": 50, "encoder_hidden_size": 32, "cross_attention_frequency": 1},
        text_config={
            "model_type": "opt",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "word_embed_proj_dim": 32,
            "max_position_embeddings": 256,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 1,
        },
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return _save(transformers.Blip2ForConditionalGeneration(config), folder)


def write_tiny_florence2(folder):
    """Florence2ForConditionalGeneration, as florence-community's repositories have it."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<image>", "<od>", "<loc_0>"]
    named = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = _tokenizer(special, extra_special_tokens={"image_token": "<image>"}, **named)
    tokenizer.save_pretrained(folder)
    _image_processor(folder, "CLIPImageProcessor", **_SQUARE, do_center_crop=False, image_seq_length=17)
    _named(
        folder, "Florence2Processor", num_additional_image_tokens=0, post_processor_config={"pure_text": {}}
    )
    config = transformers.Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(tokenizer),
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "max_position_embeddings": 256,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "forced_bos_token_id": None,
        },
        vision_config={
            "embed_dim": [8, 16],
            "num_heads": [1, 2],
            "num_groups": [1, 2],
            "depths": [1, 1],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "window_size": 4,
            "projection_dim": 32,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = transformers.Florence2ForConditionalGeneration(config)
    silent = ["Ġ", "Ċ", *(token for token in special if token != "</s>")]
    model.generation_config.suppress_tokens = tokenizer.convert_tokens_to_ids(silent)
    return _save(model, folder, seed=0, spread=0.2)


_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _chat_tokenizer(folder, special, image, **named):
    """A tokenizer whose chat template puts `image` where the picture is."""
    template = _CHATML.replace("IMAGE", image)
    tokenizer = _tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special],
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        unk_token="<|endoftext|>",
        **named,
    )
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    return tokenizer


def _language(tokenizer, **values):
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 2,
        **values,
    }


def write_tiny_qwen2_vl(folder):
    """Qwen2VLForConditionalGeneration; a picture is as many tokens as its size asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    special = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    tokenizer = _chat_tokenizer(folder, special, image)
    sizes = {
        "patch_size": 8,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": 256,
        "max_pixels": SIDE**2,
    }
    _image_processor(folder, "Qwen2VLImageProcessor", **sizes)
    _named(folder, "Qwen2VLProcessor")
    video = {"video_processor_type": "Qwen2VLVideoProcessor", **sizes}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video), "utf-8")
    config = transformers.Qwen2VLConfig(
        text_config=_language(
            tokenizer,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        ),
        vision_config={
            "depth": 2,
            "embed_dim": 32,
            "hidden_size": 32,
            "num_heads": 2,
            "mlp_ratio": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
    return _save(transformers.Qwen2VLForConditionalGeneration(config), folder)


def write_tiny_smolvlm(folder):
    """SmolVLMForConditionalGeneration; the picture is seen in parts and as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", *rows]
    tokenizer = _chat_tokenizer(folder, special, "<image>")
    image = {"do_resize": True, "size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    _image_processor(folder, "SmolVLMImageProcessor", **image, do_image_splitting=True)
    video = {"video_processor_type": "SmolVLMVideoProcessor", **image}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video), "utf-8")
    _named(folder, "SmolVLMProcessor", image_seq_len=4)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **_language(tokenizer)},
        vision_config={**sizes, "image_size": SIDE, "patch_size": 8},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return _save(transformers.SmolVLMForConditionalGeneration(config), folder)


def write_tiny_llava(folder):
    """LlavaForConditionalGeneration in JoyCaption's layout: SigLIP's pictures, Llama's words."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _chat_tokenizer(folder, ["<image>"], "<image>")
    _image_processor(folder, "SiglipImageProcessor", **_SQUARE)
    _named(
        folder,
        "LlavaProcessor",
        image_token="<image>",
        patch_size=8,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
    )
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {"model_type": "siglip_vision_model", **sizes, "image_size": SIDE, "patch_size": 8}
    config = transformers.LlavaConfig(
        vision_config={**vision, "vision_use_head": False},
        text_config={"model_type": "llama", **_language(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
    )
    return _save(transformers.LlavaForConditionalGeneration(config), folder)


TAGS = (
    *(("general", 9), ("explicit", 9), ("1girl", 0), ("long_hair", 0), ("^_^", 0), ("red_circle", 0)),
    *(("blue_square", 0), (">_<", 0), ("hakurei_reimu", 4), ("saber_(fate)", 4)),
)
"""(name, category) as in selected_tags.csv: 9 = rating, 0 = general, 4 = character."""


def write_tiny_tagger(folder):
    """A WD tagger: timm's vision transformer, selected_tags.csv, and a config.json of timm's kind."""
    import timm
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    arguments = {"img_size": SIDE, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": "avg"}
    arguments |= {"class_token": False, "fc_norm": False, "patch_size": 8}
    model = timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=len(TAGS), **arguments)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.4, generator=generator)
    save_file(model.state_dict(), folder / "model.safetensors")
    picture = {"input_size": [3, SIDE, SIDE], "interpolation": "bicubic", "crop_pct": 1.0}
    config = {
        "architecture": "vit_base_patch16_224",
        "num_classes": len(TAGS),
        "num_features": 32,
        "global_pool": "avg",
        "model_args": arguments,
        "pretrained_cfg": {
            **picture,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": len(TAGS),
        },
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    with (folder / "selected_tags.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["tag_id", "name", "category", "count"])
        table.writerows([number, name, category, 1000] for number, (name, category) in enumerate(TAGS))
    return folder


WRITERS = {
    "blip": write_tiny_blip,
    "blip-2": write_tiny_blip2,
    "florence2": write_tiny_florence2,
    "qwen2_vl": write_tiny_qwen2_vl,
    "smolvlm": write_tiny_smolvlm,
    "llava": write_tiny_llava,
}
"""model_type -> writes it; the tagger is apart, for it needs timm."""
