"""Words for new tokens against the captions that should hold them, and against CLIP's own vocabulary."""

from dataclasses import replace
from pathlib import Path

import pytest
from sdxl_trainer.trainer.config import DatasetConfig, PivotalConfig
from sdxl_trainer.trainer.data.caption_variants import with_caption_variants
from sdxl_trainer.trainer.data.training_set import Picture, TrainingSet, Variant
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.settings.caption_variants_config import CaptionVariantsConfig
from sdxl_trainer.trainer.text.caption_checks import require_words, with_token, word_notes
from sdxl_trainer.trainer.text.new_tokens import NewTokens

TOK = NewTokens((("TOK", 2),))
BOTH = NewTokens((("TOK", 2), ("STY", 1)))


def pictures(*captions):
    """A dataset of which only the captions matter: a text, or several of one picture."""
    each = [(one,) if isinstance(one, str) else one for one in captions]
    return TrainingSet(
        pictures=tuple(
            Picture(Path(f"{i}.png"), f"{i}.png", 64, 64, texts, "file", 1, f"{i:064x}")
            for i, texts in enumerate(each)
        ),
        config=DatasetConfig(),
        notes=(),
        variants=tuple((Variant(i, (64, 64), 0, 0, (64, 64), False),) for i in range(len(each))),
        fingerprint="before",
        root_name="pictures",
    )


def captions_of(dataset):
    return [picture.captions for picture in dataset.pictures]


def test_captions_that_all_hold_the_word_are_left_as_they_are():
    dataset = pictures("a photo of TOK", "tok, sitting", ("TOK", "(Tok:1.2)"))
    for add_token in (False, True):
        checked, notes = with_token(dataset, TOK, add_token)
        assert checked == dataset
        assert notes == []


def test_captions_without_it_are_counted_and_named():
    dataset = pictures("TOK", "token", "", ("TOK", "a cat"), "a dog", "TOKs")
    checked, notes = with_token(dataset, TOK, False)
    assert checked == dataset
    assert notes == [
        "5 of 7 captions hold no TOK, and teach it nothing: 1.png, 2.png, 3.png and 2 more; write it into "
        "them, or set add_token to on"
    ]


def test_the_first_word_is_put_in_front_on_request():
    dataset = pictures("TOK", "token", "", ("a sty", "a cat"))
    checked, (note,) = with_token(dataset, BOTH, True)
    assert captions_of(checked) == [("TOK",), ("TOK, token",), ("TOK",), ("a sty", "TOK, a cat")]
    assert note == "TOK was put in front of 3 of 5 captions"
    assert checked.fingerprint != dataset.fingerprint
    assert with_token(checked, BOTH, True) == (checked, [])
    assert captions_of(dataset)[1] == ("token",)


def test_a_word_in_no_caption_is_refused_with_a_way_out():
    with pytest.raises(InputError) as refused:
        with_token(pictures("a cat", "a token"), TOK, False)
    assert str(refused.value) == (
        "token 'TOK' stands in none of the dataset's captions, so nothing would learn it: write it into the "
        "captions where the subject is, or set add_token to on, which puts it in front"
    )
    assert captions_of(with_token(pictures("a cat"), TOK, True)[0]) == [("TOK, a cat",)]


@pytest.mark.parametrize("add_token", [False, True])
def test_each_of_several_words_must_stand_somewhere(add_token):
    with pytest.raises(InputError, match="token 'STY' stands in none") as refused:
        with_token(pictures("TOK, a cat"), BOTH, add_token)
    assert "add_token" not in str(refused.value)  # it would put the other one in front
    assert with_token(pictures("TOK, a cat", "a cat, sty"), BOTH, add_token)[1] == []


@pytest.mark.parametrize(
    ("others", "way_out"),
    [
        ("a cat", "lower validation_share, or set add_token to on, which puts it in front of the others"),
        ("a sty", "lower validation_share, or write it into more captions"),  # add_token would leave them
    ],
)
def test_a_word_that_only_held_out_pictures_have_is_refused(others, way_out):
    (name,) = (picture.name for picture in pictures(*"abcd").split(0.25)[1].pictures)
    captions = ["TOK, a sty" if f"{i}.png" == name else others for i in range(4)]
    dataset, _ = with_token(pictures(*captions), BOTH, False)
    trained, held_out = dataset.split(0.25)
    assert captions_of(held_out) == [("TOK, a sty",)]
    with pytest.raises(InputError) as refused:
        require_words(trained, BOTH)
    absent = "'TOK' and 'STY'" if others == "a cat" else "'TOK'"
    assert str(refused.value) == (
        f"the captions with token {absent} are all among the held-out pictures, so nothing would learn it: "
        f"{way_out}"
    )
    require_words(dataset, BOTH)
    added, _ = with_token(pictures(*captions), TOK, True)
    require_words(added.split(0.25)[0], TOK)


def test_variants_that_lost_the_word_are_told_and_made_good():
    captions = ("a hat, a tree, TOK, sky", "a sty, on a hill, sky, TOK"), "TOK, sky, hill", "a cat"
    whole, safe = pictures(*captions), CaptionVariantsConfig(tag_dropout=0.5, never_drop="TOK, sty")
    assert with_token(with_caption_variants(whole, safe), TOK, False)[1] == [
        "1 of 4 captions hold no TOK, and teach it nothing: 2.png; write it into them, or set add_token to on"
    ]
    dataset = with_caption_variants(whole, CaptionVariantsConfig(tag_dropout=0.5))
    lost = sum(not TOK.holds(caption) for caption in dataset.pictures[0].captions)
    assert lost > 2
    checked, (_, note) = with_token(dataset, TOK, False)
    assert checked == dataset
    assert note == (
        f"{lost} variants of captions have lost TOK, and teach it nothing: 0.png; write it into never_drop "
        "of Caption Variants, and into every choice that is to have it"
    )
    checked, notes = with_token(dataset, TOK, True)
    assert notes == [
        "TOK was put in front of 1 of 4 captions",
        f"TOK was put in front of {lost} variants that had lost it",
    ]
    assert all(TOK.holds(caption) for texts in captions_of(checked) for caption in texts)
    assert checked.pictures[2].shown_captions == ("TOK, a cat",)
    assert checked.fingerprint != dataset.fingerprint


def test_class_images_are_left_alone_but_should_not_call_up_the_subject():
    classes = pictures("a cat", "a TOK cat")
    dataset = replace(pictures("TOK", "a cat"), class_set=classes)
    checked, notes = with_token(dataset, TOK, True)
    assert checked.class_set == classes
    assert notes[1:] == ["1 class captions hold TOK, which calls up the subject: call the class without it"]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("cat", "is one known token of CLIP (cat)"),
        ("Woman", "is one known token of CLIP (woman)"),
        ("teapot", "is one known token of CLIP (teapot)"),  # a rare token, but a word
        ("bookcase", "splits into book + case"),
        ("TOK", ""),
        ("sks", ""),
        ("ohwx", ""),
        ("m1a", ""),
        ("zorp", ""),
    ],
)
def test_words_that_clip_knows_are_warned_of_with_their_tokens(word, told):
    config = PivotalConfig(token=word)
    notes = word_notes(config, NewTokens.parse(config))
    assert len(notes) == bool(told)
    assert all(f"token '{word}' {told}" in note and "such as TOK" in note for note in notes)


@pytest.mark.parametrize(
    ("initial", "counts", "told"),
    [
        ("golden retriever puppy", "2", "initial_words 'golden retriever puppy' are 3 tokens and TOK has 2"),
        ("golden retriever", "2", ""),
        ("woman", "4", ""),
        ("", "1", ""),
    ],
)
def test_initial_words_that_are_longer_than_the_new_tokens_are_told(initial, counts, told):
    config = PivotalConfig(token="TOK", new_tokens=counts, initial_words=initial)
    notes = word_notes(config, NewTokens.parse(config))
    assert len(notes) == bool(told)
    assert all(told in note and "puppy is left out; raise new_tokens to 3" in note for note in notes)
