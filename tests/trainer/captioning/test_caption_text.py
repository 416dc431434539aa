import pytest
from sdxl_trainer.trainer.captioning.caption_text import (
    caption_from,
    joined_captions,
    own_captions,
    without_phrases,
    without_trigger,
)
from sdxl_trainer.trainer.data.captions import MAX_CAPTION_CHARS
from sdxl_trainer.trainer.data.picture import Picture
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.settings.caption_config import CaptionConfig

PHRASES = CaptionConfig().phrases


def said(raw, **settings):
    return caption_from(raw, CaptionConfig(**settings))


def joined(existing, new, if_exists, trigger="zorp"):
    return joined_captions(existing, new, CaptionConfig(if_exists=if_exists), trigger)


@pytest.mark.parametrize(
    ("raw", "left"),
    [
        ("The image shows a dog on a sofa.", "a dog on a sofa."),
        ("THE  IMAGE\nshows a dog", "a dog"),
        ("This is an image of: a dog", "a dog"),
        ("In this picture, we can see a dog", "a dog"),
        ("In the image there is a dog", "a dog"),
        ("The image shows", ""),
        ("The image showsman stands", "The image showsman stands"),  # phrases end where words end
        ("A dog; the image shows it well", "A dog; the image shows it well"),
        (":d, 1girl, solo", ":d, 1girl, solo"),  # a tag, not what a phrase left over
    ],
)
def test_phrases_at_the_start_go(raw, left):
    assert said(raw) == left


def test_of_two_phrases_the_longer_one_goes_and_none_where_none_is_wanted():
    assert without_phrases("this is a picture of a cat", ["this is", "this is a picture of"]) == "a cat"
    assert said("The image shows a dog", strip_phrases="\n  \n") == "The image shows a dog"
    assert "there is" in PHRASES and "" not in PHRASES


@pytest.mark.parametrize(
    ("prefix", "suffix", "caption"),
    [
        # the notebook of diffusers (document 002): caption_prefix = "a photo of TOK, "
        ("a photo of TOK, ", "", "a photo of TOK, a woman with a green shirt"),
        ("a photo of TOK,", "", "a photo of TOK, a woman with a green shirt"),
        # kohya_ss (document 003): "rihanna a woman with a green and black shirt and jeans"
        ("rihanna", "", "rihanna a woman with a green shirt"),
        ("", "in pencil", "a woman with a green shirt in pencil"),
        ("", ", pencil drawing", "a woman with a green shirt, pencil drawing"),
        ("", " , pencil drawing ", "a woman with a green shirt, pencil drawing"),
    ],
)
def test_prefix_and_suffix_stand_as_kohya_and_diffusers_put_them(prefix, suffix, caption):
    assert said("a woman with a green shirt", prefix=prefix, suffix=suffix) == caption


def test_a_full_stop_before_a_comma_goes_and_nothing_said_stays_nothing():
    assert said("A dog sits.", suffix=", pencil") == "A dog sits, pencil"
    assert said(" \n", prefix="a photo of TOK, ") == ""


def test_a_full_stop_alone_is_nothing_said():
    assert said("The image shows.", prefix="a photo of TOK,") == "" == said(" ., ")


def test_existing_captions_are_kept_overwritten_appended_to_or_prepended_to():
    old = ("zorp, old",)
    assert joined(old, "new", "skip") == old
    assert joined(old, "new", "overwrite") == ("zorp, new",)
    assert joined(old, "new", "append") == ("zorp, old, new",)
    assert joined(old, "new", "prepend") == ("zorp, new, old",)
    for if_exists in ("skip", "overwrite", "append", "prepend"):
        assert joined((), "new", if_exists) == ("zorp, new",)
        assert joined((), "a photo of Zorp, new", if_exists) == ("a photo of Zorp, new",)
    assert joined(("A dog sits.",), "grass", "append", "") == ("A dog sits, grass",)
    assert joined(("tag",), "The dog sits.", "prepend", "") == ("The dog sits, tag",)


@pytest.mark.parametrize("if_exists", ["skip", "overwrite", "append", "prepend"])
@pytest.mark.parametrize("new", ["new", "new, with commas.", "zorp, new", "a photo of zorp, new", "old"])
@pytest.mark.parametrize("old", ["zorp, old", "the old zorp", "old."])
def test_captioning_again_changes_nothing(old, new, if_exists):
    once = joined((old,), new, if_exists)
    assert joined(once, new, if_exists) == once
    assert once[0].count("new") <= 1 and "zorp, zorp" not in once[0]


def test_several_captions_all_get_the_new_one_or_all_give_way():
    old = ("zorp, one", "zorp, two")
    assert joined(old, "new", "skip") == old
    assert joined(old, "new", "append") == ("zorp, one, new", "zorp, two, new")
    assert joined(old, "new", "overwrite") == ("zorp, new",)
    assert joined(("zorp, one", "zorp, one."), "new", "append") == ("zorp, one, new",)


def test_a_caption_is_never_longer_than_a_reader_takes():
    (caption,) = joined(("word " * 2500,), "new", "append")
    assert len(caption) <= MAX_CAPTION_CHARS and caption.startswith("zorp, word")


def test_what_counts_as_a_caption_of_the_picture_itself(tmp_path):
    def own(*captions, source):
        return own_captions(Picture(tmp_path, "a", 64, 64, captions, source, 1, "d"), "zorp")

    assert own("zorp, a dog", source=".txt file") == ("zorp, a dog",)
    assert own("zorp, a dog", "zorp", source="metadata.jsonl") == ("zorp, a dog",)
    assert own("zorp", source=".caption file") == ()
    for source in ("folder name", "prompt", "none"):
        assert own("zorp, a dog", source=source) == ()
    assert without_trigger("zorp", "Zorp") == ""
    assert without_trigger("zorpling, x", "zorp") == "zorpling, x"
    assert without_trigger("a cat", "") == "a cat"


def test_wrong_settings_are_refused_all_at_once():
    with pytest.raises(InputError, match=r"if_exists is 'add'.*save is 'csv'.*question is empty"):
        CaptionConfig(style="custom", if_exists="add", save="csv")
    assert CaptionConfig(question="What?").asked == ""
    assert CaptionConfig(style="custom", question=" What? ").asked == "What?"
