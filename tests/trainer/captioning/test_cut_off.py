"""Where a text that stopped for its length is cut."""

import pytest
import torch
from sdxl_trainer.trainer.captioning.cut_off import without_cut_off_end
from sdxl_trainer.trainer.captioning.text_captioner import num_written


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A dog. It runs. It is on a", "A dog. It runs."),
        ("A dog runs.", "A dog runs."),
        ('A sign says "stop." A man with', 'A sign says "stop."'),
        ("a dog . it runs on", "a dog ."),
        ("What a dog! It has", "What a dog!"),
        ("A man, Mr. Smith, and J. R. Doe, e.g. a 1.5 m", "A man, Mr. Smith, and J. R. Doe, e.g. a 1.5 m"),
        ("1. a dog 2. a cat", "1. a dog 2. a cat"),
        ("Built in 1990. The house", "Built in 1990."),
        ("一只狗。它在", "一只狗。"),
        ("... and a dog", "... and a dog"),
        ("a dog on a", "a dog on a"),
        ("", ""),
    ],
)
def test_sentences(text, kept):
    assert without_cut_off_end(text, "detailed") == kept
    assert without_cut_off_end(text, "short") == kept
    assert without_cut_off_end(text, "custom") == text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("dog, cat, hou", "dog, cat"),
        ("dog, cat, ", "dog, cat"),
        ("dog. cat, ho", "dog. cat"),
        ("dog", "dog"),
        (", d", ", d"),
    ],
)
def test_tags(text, kept):
    assert without_cut_off_end(text, "tags") == kept


def test_the_sign_of_the_start_is_not_written_and_that_of_the_end_is_where_it_is_forced():
    for ids, plain, forced in (([2, 0, 7, 8, 2], 3, 4), ([7, 8], 2, 2), ([1, 7, 2, 8], 3, 3), ([], 0, 0)):
        tokens = torch.tensor(ids, dtype=torch.long)
        assert (num_written(tokens, (0, 1, 2)), num_written(tokens, (0, 1, 2), True)) == (plain, forced)
