"""Caption variants: kohya's draws, each in its share, and encoded as rarely as captions differ."""

import itertools
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sdxl_trainer.trainer.config import DatasetConfig
from sdxl_trainer.trainer.data.batches import BatchPlan, generator
from sdxl_trainer.trainer.data.caption_variants import (
    caption_variants_report,
    shown_variants,
    with_caption_variants,
)
from sdxl_trainer.trainer.data.dataset_sets import join_datasets, with_class_images
from sdxl_trainer.trainer.data.training_set import Picture, TrainingSet, Variant
from sdxl_trainer.trainer.diffusion.conditioning import stack_conditions
from sdxl_trainer.trainer.encoding.encoded_captions import encode_captions
from sdxl_trainer.trainer.encoding.encoded_dataset import captions_of as captions_to_encode
from sdxl_trainer.trainer.errors import CancelledError, InputError
from sdxl_trainer.trainer.settings.caption_variants_config import CaptionVariantsConfig


def pictures(*captions, **settings):
    """A dataset of which only the captions matter: a text, or several of one picture."""
    each = [(one,) if isinstance(one, str) else one for one in captions]
    return TrainingSet(
        pictures=tuple(
            Picture(Path(f"{i}.png"), f"{i}.png", 64, 64, texts, "file", 1, f"{i:064x}")
            for i, texts in enumerate(each)
        ),
        config=DatasetConfig(**settings),
        notes=(),
        variants=tuple((Variant(i, (64, 64), 0, 0, (64, 64), False),) for i in range(len(each))),
        fingerprint="before",
        root_name="pictures",
    )


def varied(dataset, **settings):
    return with_caption_variants(dataset, CaptionVariantsConfig(**settings))


def captions_of(dataset):
    return [picture.captions for picture in dataset.pictures]


def texts_of(caption, **settings):
    """The different variants of one caption among many."""
    return set(varied(pictures(caption), num_variants=200, **settings).pictures[0].captions)


def kohya(caption, config, chance):
    """process_caption of sd-scripts, library/train_util.py, without caption dropout and warm-up."""
    if config.prefix:
        caption = config.prefix + " " + caption
    if config.suffix:
        caption = caption + " " + config.suffix
    if config.wildcards:
        caption = re.sub(r"\{([^}]+)\}", lambda m: chance.choice(m.group(1).split("|")), caption)
    if config.shuffle or config.tag_dropout > 0:
        fixed, ending = [], []
        if config.keep_separator and config.keep_separator in caption:
            fixed_part, flex_part = caption.split(config.keep_separator, 1)
            if config.keep_separator in flex_part:
                flex_part, end_part = flex_part.split(config.keep_separator, 1)
                ending = [t.strip() for t in end_part.split(config.separator) if t.strip()]
            fixed = [t.strip() for t in fixed_part.split(config.separator) if t.strip()]
            flex = [t.strip() for t in flex_part.split(config.separator) if t.strip()]
        else:
            tokens = [t.strip() for t in caption.strip().split(config.separator)]
            fixed, flex = tokens[: config.keep_tags], tokens[config.keep_tags :]
        if config.shuffle:
            chance.shuffle(flex)
        if config.tag_dropout > 0:
            flex = [t for t in flex if chance.random() >= config.tag_dropout]
        caption = ", ".join(fixed + flex + ending)
    if config.secondary_separator:
        caption = caption.replace(config.secondary_separator, config.separator)
    return caption


TAGS = "zorp, 1girl, red hat, smile, outdoors, tree"
KOHYA = {
    "shuffle": (TAGS, {}),
    "nothing kept": (TAGS, {"keep_tags": 0}),
    "dropout": (TAGS, {"shuffle": False, "tag_dropout": 0.4, "keep_tags": 2}),
    "all of it": (
        "zorp, {1girl|2girls, hug}, red hat, smile, {tree|sky|}",
        {"tag_dropout": 0.3, "wildcards": True, "prefix": "photo of", "suffix": "at night", "keep_tags": 2},
    ),
    "kept by a mark": ("zorp, 1girl ||| red hat, smile, tree", {"keep_separator": "|||", "tag_dropout": 0.2}),
    "kept at the end": ("zorp ||| hat, smile, tree ||| best, sharp", {"keep_separator": "|||"}),
    "a caption without the mark": (TAGS, {"keep_separator": "|||", "keep_tags": 3}),
    "other separator": ("zorp; 1girl, hug; hat; tree", {"separator": ";"}),
    "groups": ("zorp, red hat;;;red scarf, smile, tree", {"secondary_separator": ";;;"}),
    "wildcards alone": ("a {red|blue},{big|small} zorp", {"shuffle": False, "wildcards": True}),
    "nothing": ("zorp,1girl", {"shuffle": False, "prefix": "photo"}),
    "a sentence": ("a zorp on a hill", {"tag_dropout": 0.5}),
}


@pytest.mark.parametrize("name", KOHYA)
def test_variants_are_drawn_in_the_order_of_kohyas_trainer(name):
    caption, settings = KOHYA[name]
    config = CaptionVariantsConfig(num_variants=40, **settings)
    (picture,) = with_caption_variants(pictures(caption), config).pictures
    draws = [
        kohya(caption, config, generator(42, f"caption variant/{picture.digest}/{caption}", number))
        for number in range(40)
    ]
    # an empty choice leaves an empty tag there, and parted groups have no space: CLIP's tokens are the same
    tags = [[tag.strip() for tag in text.split(",") if tag.strip()] for text in draws]
    found = picture.captions if len(picture.captions) > 1 else picture.captions * 40
    assert [[tag.strip() for tag in text.split(",") if tag.strip()] for text in found] == tags
    assert (len(picture.captions) == 1) == (len(set(draws)) == 1)


def test_they_hang_on_seed_picture_caption_and_number_alone():
    dataset = pictures(TAGS, TAGS, (TAGS, "zorp, a, b, c, d"))
    one = varied(dataset)
    assert captions_of(one) == captions_of(varied(dataset))
    assert captions_of(one)[0] != captions_of(one)[1]
    assert captions_of(varied(dataset.only([1])))[0] == captions_of(one)[1]
    assert captions_of(varied(dataset, num_variants=3))[2] == tuple(
        captions_of(one)[2][number] for number in (0, 1, 2, 8, 9, 10)
    )
    other = varied(dataset, seed=43)
    assert all(a != b for a, b in zip(captions_of(one), captions_of(other), strict=True))
    assert len({dataset.fingerprint, one.fingerprint, other.fingerprint}) == 3
    before = random.getstate()
    varied(dataset)
    assert random.getstate() == before


def drawn_captions(dataset, epochs):
    plan = BatchPlan(dataset, 50, seed=1)
    return [draw.caption for i in range(plan.num_batches * epochs) for draw in plan.batch(i)]


def is_close(count, total, share):
    """Within four sigma: of some hundred shares in this file, none should lie outside."""
    return abs(count - total * share) <= 4 * (total * share * (1 - share)) ** 0.5


def test_batches_see_each_order_each_tag_and_each_caption_in_its_share():
    dataset = pictures(*[("zorp, a, b, c", "zorp sits")] * 300)
    drawn = drawn_captions(varied(dataset, tag_dropout=0.2), 2)
    sitting = sum(caption == "zorp sits" for caption in drawn)
    assert is_close(sitting, len(drawn), 0.5)
    tagged = [caption.split(", ") for caption in drawn if caption != "zorp sits"]
    assert all(tags[0] == "zorp" for tags in tagged)
    for tag in "abc":
        # 300 captions of 8 variants: the share of the variants is what can be 0.8, drawn twice or not
        assert is_close(sum(tag in tags for tags in tagged) / 2, len(tagged) / 2, 0.8)
    orders = Counter(tuple(tags[1:]) for tags in tagged if len(tags) == 4)
    assert orders.keys() == set(itertools.permutations("abc"))
    assert all(is_close(number / 2, orders.total() / 2, 1 / 6) for number in orders.values())


def test_the_trigger_stays_in_front_and_is_never_dropped():
    dataset = pictures("ZORP, hat, tree", "a photo of zorp, hat, tree", "hat, zorp, tree", trigger="zorp")
    kept = varied(dataset, tag_dropout=0.5, num_variants=100)
    assert all(text.lower().startswith("zorp") for text in captions_of(kept)[0])
    for settings in ({"keep_tags": 0, "tag_dropout": 0.5}, {"keep_tags": 0, "tag_dropout": 1.0}):
        everywhere = varied(dataset, num_variants=100, **settings)
        assert all("zorp" in text.lower() for texts in captions_of(everywhere) for text in texts)
    # the last of them drops all else
    assert captions_of(everywhere) == [("ZORP",), ("a photo of zorp",), ("zorp",)]
    assert captions_of(varied(dataset, tag_dropout=1.0))[2] == ("hat, zorp",)
    assert everywhere.trigger_words == "zorp"
    assert any("in 1 of 3 captions the trigger 'zorp' is not among the kept" in str(n) for n in kept.notes)


def test_a_trigger_of_two_tags_is_kept_whole():
    texts = texts_of("zorp, dog, hat, tree", keep_tags=0, tag_dropout=1.0)
    assert texts == {""}  # no tag of it is a trigger here
    assert texts_of("zorp", keep_tags=0, tag_dropout=1.0) == {"zorp"}  # the prompt that all pictures share
    dataset = pictures("zorp, dog, hat, tree", "zorp, dog, sky, sun", trigger="zorp, dog")
    (one, _) = captions_of(varied(dataset, keep_tags=0, tag_dropout=1.0, num_variants=30))
    assert set(one) == {"zorp, dog", "dog, zorp"}
    assert captions_of(varied(dataset, keep_tags=2, tag_dropout=1.0))[0] == ("zorp, dog",)


def test_words_that_are_named_are_never_dropped():
    assert texts_of("hat, a TOK, tree, sky", keep_tags=0, tag_dropout=1.0, never_drop="tok, sky") == {
        "a TOK, sky",
        "sky, a TOK",
    }


def test_what_is_kept_remains_when_all_else_goes():
    assert texts_of(TAGS, keep_tags=2, tag_dropout=1.0) == {"zorp, 1girl"}
    assert texts_of("a, b ||| c, d ||| e", keep_separator="|||", tag_dropout=1.0) == {"a, b, e"}
    assert texts_of("a, b", keep_tags=0, tag_dropout=1.0) == {""}


def test_plain_captions_have_all_in_its_place():
    settings = {"prefix": "photo of", "suffix": "at night", "wildcards": True, "keep_separator": "|||"}
    dataset = pictures(("zorp ||| {red|blue} hat, tree", "zorp, c"), "", "{a|b}")
    made = varied(dataset, tag_dropout=0.5, **settings)
    assert [p.plain_captions for p in made.pictures] == [
        ("photo of zorp, red hat, tree at night", "photo of zorp, c at night"),
        ("photo of at night",),
        ("photo of a at night",),
    ]
    assert [len(p.captions) for p in made.pictures] == [16, 1, 8]
    assert made.pictures[0].shown_captions == made.pictures[0].plain_captions
    assert set(captions_of(made)[2]) == {"photo of a at night", "photo of b at night"}
    for part in made.split(0.4):
        assert part.fingerprint != made.fingerprint
    assert captions_of(made.split(0.4)[1])[0] == made.split(0.4)[1].pictures[0].shown_captions


def test_where_nothing_is_drawn_one_variant_is_made():
    dataset = pictures(("a,b", "c"), "")
    plain = varied(dataset, shuffle=False)
    assert captions_of(plain) == [("a,b", "c"), ("",)]
    assert captions_of(varied(dataset)) == [("a, b", "c"), ("",)]
    assert captions_of(varied(pictures("a,b,c", ("x", "y, z, w"))))[1].count("x") == 8


def test_class_images_and_joined_sets_keep_what_is_theirs():
    classes = pictures("a dog, brown, small, wet")
    own = with_class_images(replace(pictures(*[TAGS] * 3).only([1, 2]), fingerprint="own"), classes)
    made = varied(own)
    assert made.class_set == own.class_set
    joined = join_datasets([(made, 1.0), (pictures("b, c"), 0.5)])
    assert captions_of(joined) == [*captions_of(made), ("b, c",)]
    assert joined.pictures[0].plain_captions == (TAGS,)
    for again in (made, joined):
        with pytest.raises(InputError, match=r"are variants already.* one Caption Variants node"):
            varied(again)


@pytest.mark.parametrize(
    ("captions", "settings", "told"),
    [
        (["a dog"], {}, "no caption has a comma: nothing to shuffle"),
        (["a dog"], {"separator": ";"}, "no caption has a ';': nothing to shuffle"),
        (["a, b"], {}, "no caption has enough tags that are not kept: nothing to shuffle"),
        (
            ["a, b, c"],
            {"shuffle": False, "tag_dropout": 0.1, "keep_tags": 3},
            "tags that are not kept: nothing to drop",
        ),
        (["a, b, c", "b"], {"wildcards": True}, "no caption has a choice such as {red|blue}"),
        (["a, b, {c|d", "a, b, {c|d}"], {"wildcards": True}, "1 captions have a brace without its partner"),
        (
            ["a ||| b, c", "a, b, c"],
            {"keep_separator": "|||"},
            "1 of 2 captions have no |||: keep_tags counts",
        ),
    ],
)
def test_settings_that_change_nothing_are_told(captions, settings, told):
    made = varied(pictures(*captions), **settings)
    assert [told in str(note) for note in made.notes] == [True]
    assert told in caption_variants_report(made, made.notes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"separator": " "}, "separator is empty"),
        ({"keep_separator": ",,"}, "keep_separator is ',,', which holds the separator ','"),
        ({"keep_separator": "|", "secondary_separator": "|"}, r"are both '\|'"),
        ({"num_variants": 0}, "num_variants is 0, but must be from 1 to 256"),
        ({"tag_dropout": 1.5}, r"tag_dropout is 1\.5"),
        ({"keep_tags": -1}, "keep_tags is -1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        CaptionVariantsConfig(**settings)


def test_the_report_counts_what_is_encoded_and_the_captions_are_shown():
    made = varied(pictures("zorp, a, b", "zorp, c", "", " ".join(["word"] * 100)))
    report = caption_variants_report(made, made.notes)
    assert report.startswith("4 pictures, 4 captions, 5 different variants.")
    assert "about 1.8 MiB" in report  # six windows of 310 KiB: the long one has two
    assert shown_variants(made, 2) in (
        "0.png\n  zorp, a, b\n  zorp, b, a\n\n1.png\n  zorp, c",
        "0.png\n  zorp, b, a\n  zorp, a, b\n\n1.png\n  zorp, c",
    )
    assert shown_variants(made).splitlines()[-5:-3] == ["2.png", "  (empty)"]


@pytest.fixture
def tagged(tiny_run, tmp_path):
    captions = [f"zorp, tag {n}, red, green, blue" for n in range(5)]
    tiny_run.draw_pictures(tmp_path / "pictures", 5, captions)
    return varied(tiny_run.tiny_dataset(tmp_path), tag_dropout=0.2)


def test_each_different_variant_is_encoded_once_and_as_it_reads(tiny_run, tmp_path, tagged):
    model = tiny_run.TinyModel()
    tiny_run.run_tiny(tmp_path, model=model, dataset=tagged, steps=2)
    different = {caption for texts in captions_of(tagged) for caption in texts}
    assert sorted(model.encoded_captions) == sorted({"", *different})
    assert 25 < len(different) <= 40


def test_a_run_on_variants_goes_on_bit_for_bit(tiny_run, tmp_path, tagged):
    values = {"dataset": tagged, "batch_size": 2, "steps": 6}
    whole = tiny_run.run_tiny(tmp_path / "a", **values)
    with pytest.raises(CancelledError):
        tiny_run.run_tiny(tmp_path / "b", tiny_run.StopAfter(3), **values)
    resumed = tiny_run.run_tiny(tmp_path / "b", **values)
    assert resumed.resumed_from == 3
    assert resumed.lora_path.read_bytes() == whole.lora_path.read_bytes()
    # and validation holds out pictures under their plain captions
    model = tiny_run.TinyModel()
    validation = {"validation_share": 0.2, "validate_every": 1}
    tiny_run.run_tiny(tmp_path / "c", model=model, validation=validation, **values)
    (held_out,) = tagged.split(0.2)[1].pictures
    assert held_out.captions[0] in model.encoded_captions
    assert held_out.captions[0].endswith("red, green, blue")


def test_text_encoders_and_new_tokens_learn_from_variants(tiny_run, tmp_path, tagged):
    for name, values in {
        "lora": {"text_encoder": {"train_text_encoder": "both"}},
        "tokens": {"pivotal": {"token": "zorp", "ti_fraction": 0.5}},
    }.items():
        listener = tiny_run.StopAfter()
        tiny_run.run_tiny(tmp_path / name, listener, dataset=tagged, steps=2, **values)
        assert len(listener.losses) == 2


def test_kept_text_is_what_encoding_anew_gives(tiny_run, tagged):
    model = tiny_run.TinyModel()
    texts = captions_to_encode(tagged)
    kept = encode_captions(texts, model.encode_captions, tiny_run.StopAfter(), lambda: None)
    plan = BatchPlan(tagged, 3, seed=2)
    for index in range(plan.num_batches * 3):
        drawn = [draw.caption for draw in plan.batch(index)]
        fresh = stack_conditions(model.encode_captions(drawn))
        assert all(torch.equal(one, other) for one, other in zip(kept.stack(drawn), fresh, strict=True))
