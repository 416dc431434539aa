"""Which settings go together; those of objective and optimizer alone have tests of their own."""

from dataclasses import replace

import pytest
from PIL import Image
from sdxl_trainer.trainer.config import SECTIONS, DatasetConfig, TrainConfig
from sdxl_trainer.trainer.data.dataset import load_dataset
from sdxl_trainer.trainer.data.dataset_sets import with_class_images, with_masks
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.runs.combinations import check_combinations

EPSILON = NoiseSchedule.sdxl()


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Datasets of four pictures each, by what they have or lack."""
    root = tmp_path_factory.mktemp("sets")

    def pictures(name, shade, size=(64, 64), caption="a cat"):
        folder = root / name
        folder.mkdir()
        for index in range(4):
            Image.new("RGBA", size, (shade, index, 0, 200)).save(folder / f"{index}.png")
            if caption:
                (folder / f"{index}.txt").write_text(caption)
        return load_dataset(folder, DatasetConfig(resolution=64, bucket_step=32))

    plain = pictures("plain", 1)
    return {
        "plain": plain,
        "masked": with_masks(plain, "alpha"),
        "class": with_class_images(plain, pictures("class", 2)),
        "odd": pictures("odd", 3, (100, 70)),
        "bare": pictures("bare", 4, caption=""),
    }


def config(values):
    """`{"lora.rank": 4}` sets one value of a section, `{"steps": 4}` one of the run."""
    sections = {}
    for place, value in values.items():
        section, _, field = place.rpartition(".")
        sections.setdefault(section, {})[field] = value
    own = sections.pop("", {})
    built = {name: SECTIONS[name](**fields) for name, fields in sections.items()}
    return TrainConfig(**{"name": "x", "steps": 100, **own, **built})


def notes(dataset, values):
    return check_combinations(config(values), dataset, EPSILON)


@pytest.mark.parametrize("name", ["plain", "masked", "class"])
def test_the_defaults_go_together_and_all_do_something(sets, name):
    assert notes(sets[name], {}) == []


PROBLEMS = [
    ({"resume": "new", "run.resume_from_step": 50}, ("resume is new", "resume_from_step is 50")),
    ({"run.resume_from_step": 100}, ("resume_from_step is 100", "steps is 100")),
    ({"run.save_diffusers": True, "lora.adapter": "dora"}, ("save_diffusers", "adapter is dora")),
    ({"run.save_diffusers": True, "lora.adapter": "lokr"}, ("save_diffusers", "adapter is lokr")),
    ({"objective.zero_terminal_snr": "on"}, ("epsilon", "zero_terminal_snr")),
    ({"objective.debiased_estimation": True}, ("min_snr_gamma is 5", "debiased_estimation")),
    (
        {"optimizer.optimizer": "prodigy_plus_schedule_free", "optimizer.ema_decay": 0.99},
        ("ema_decay is 0.99", "prodigy_plus_schedule_free"),
    ),
    (
        {"pivotal.token": "TOK", "pivotal.ti_fraction": 1.0, "run.save_diffusers": True},
        ("save_diffusers", "ti_fraction is 1"),
    ),
]


@pytest.mark.parametrize(("values", "names"), PROBLEMS)
def test_what_cannot_work_together_is_refused_with_both_names(sets, values, names):
    with pytest.raises(InputError, match="cannot work together") as refused:
        notes(sets["plain"], values)
    assert all(name in str(refused.value) for name in names)


def test_all_problems_come_at_once(sets):
    values = {
        "resume": "new",
        "run.resume_from_step": 150,
        "run.save_diffusers": True,
        "lora.adapter": "loha",
        "objective.debiased_estimation": True,
        "objective.zero_terminal_snr": "on",
        "optimizer.optimizer": "prodigy",
        "optimizer.lora_plus_ratio": 4.0,
    }
    with pytest.raises(InputError) as refused:
        notes(sets["plain"], values)
    assert len(str(refused.value).splitlines()) == 1 + 6


def test_what_is_fine_with_one_model_is_refused_with_another(sets):
    velocity = NoiseSchedule.sdxl("v_prediction")
    settings = config({"objective.zero_terminal_snr": "on"})
    check_combinations(settings, sets["plain"], velocity)
    with pytest.raises(InputError):
        check_combinations(settings, sets["plain"], EPSILON)


def test_a_lora_to_start_from_is_looked_at_too(sets):
    tokens = config({"pivotal.token": "TOK", "pivotal.ti_fraction": 1.0})
    assert len(check_combinations(tokens, sets["plain"])) == 1
    with pytest.raises(InputError, match="initial_lora"):
        check_combinations(tokens, sets["plain"], starts_from_lora=True)


def test_most_is_known_before_the_model_is_open(sets):
    assert check_combinations(config({}), sets["plain"]) == []
    with pytest.raises(InputError, match="save_diffusers"):
        check_combinations(config({"run.save_diffusers": True, "lora.adapter": "loha"}), sets["plain"])


LATE_STOP = {"validation.validation_share": 0.2, "validation.early_stop_patience": 10}
BASE_MODEL = {"prior.prior_preservation": "base_model", "prior.class_prompt": "a cat"}
WITHOUT_EFFECT = [
    # dataset, settings, which of them does nothing; and where it does: a dataset, or what else is set
    ("plain", {"lora.lokr_factor": 4}, "lokr_factor", {"lora.adapter": "lokr"}),
    ("plain", {"lora.rank_stabilized": True, "lora.rank": 1}, "rank_stabilized", {"lora.rank": 2}),
    ("plain", {"prodigy.d_coef": 2.0}, "d_coef", {"optimizer.optimizer": "prodigy"}),
    ("plain", {"noise.pyramid_discount": 0.5}, "pyramid_discount", {"noise.pyramid_iterations": 6}),
    ("plain", {"objective.unmasked_weight": 0.1}, "unmasked_weight", "masked"),
    ("plain", {"objective.mask_normalization": "mean"}, "mask_normalization", "masked"),
    ("plain", {"objective.size_conditioning": "true"}, "size_conditioning", "odd"),
    ("bare", {"objective.caption_dropout": 0.1}, "caption_dropout", "plain"),
    ("plain", {"prior.prior_loss_weight": 0.5}, "prior_loss_weight", "class"),
    (
        "plain",
        {"prior.prior_preservation": "off", "prior.prior_loss_weight": 0.5},
        "prior_loss_weight",
        {"prior.prior_loss_weight": 1.0},
    ),
    ("class", {"prior.prior_preservation": "off"}, "class images", "plain"),
    ("class", BASE_MODEL, "class images", "plain"),
    ("class", {"prior.prior_loss_weight": 0.0}, "prior_preservation", {"prior.prior_loss_weight": 0.1}),
    ("class", {"prior.class_prompt": "a cat"}, "class_prompt", {"prior.class_prompt": ""}),
    ("plain", {"run.save_every": 10, "run.save_every_epochs": 2}, "save_every", {"run.save_every": 250}),
    ("plain", {"run.save_every": 0, "run.keep_last": 2}, "keep_last", {"run.save_every": 10}),
    ("plain", {"validation.validate_every": 10}, "validate_every", {"validation.validation_share": 0.2}),
    ("plain", {"validation.keep_best": False}, "keep_best", {"validation.validation_share": 0.2}),
    (
        "plain",
        {"validation.keep_best": False, "validation.validation_share": 0.2, "run.keep_last": 0},
        "keep_best",
        {"run.keep_last": 1},
    ),
    (
        "plain",
        {"validation.early_stop_patience": 3, "run.save_every": 10},
        "early_stop_patience",
        {"validation.validation_share": 0.2},
    ),
    ("plain", {**LATE_STOP, "run.save_every": 0}, "early_stop_patience", {"run.save_every": 9}),
    ("plain", {**LATE_STOP, "run.save_every": 10}, "early_stop_patience", {"run.save_every": 9}),
    ("plain", {"preview.preview_every": 101}, "preview_every", {"preview.preview_every": 100}),
    ("plain", {"pivotal.new_tokens": "3"}, "new_tokens", {"pivotal.token": "TOK"}),
    ("plain", {"logging.project": "cats"}, "project", {"logging.tracker": "wandb"}),
    ("plain", {"logging.hub_private": False}, "hub_private", {"logging.hub_model_id": "me/cat"}),
]


@pytest.mark.parametrize(("dataset", "values", "name", "other"), WITHOUT_EFFECT)
def test_a_setting_without_effect_says_so_and_one_with_effect_does_not(sets, dataset, values, name, other):
    (said,) = notes(sets[dataset], values)
    assert said.removeprefix("the ").startswith(name)
    if isinstance(other, str):
        assert notes(sets[other], values) == []
    else:
        assert notes(sets[dataset], values | other) == []


def test_an_epoch_without_the_held_out_pictures_is_counted_for_early_stop(sets):
    # 3 of 4 pictures are trained on: 10 epochs are 30 steps
    values = {"run.save_every_epochs": 10, "steps": 90, "validation.validation_share": 0.25}
    assert notes(sets["plain"], values | {"validation.early_stop_patience": 1}) == []
    # the first measurement is always the best, so the second without a better one is the one after the last
    (said,) = notes(sets["plain"], values | {"validation.early_stop_patience": 2})
    assert "every 30 steps" in said


PATIENT = {"validation.validation_share": 0.2, "validation.validate_every": 10}


@pytest.mark.parametrize(
    ("pivotal", "patience", "start"),
    [
        ({}, 9, 0),  # measured at 10 and nine times more, of which the last is the end
        ({"pivotal.token": "TOK"}, 5, 50),  # the LoRA's first step is 50: 50 + 5 * 10
        ({"pivotal.token": "TOK", "pivotal.ti_fraction": 0.45}, 5, 45),  # measured at 50 for the first time
        ({"pivotal.token": "TOK", "pivotal.ti_fraction": 0.05}, 9, 5),  # the first loss is always the best
        ({"pivotal.token": "TOK", "pivotal.train_first": "tokens+lora"}, 9, 0),
    ],
)
def test_patience_is_counted_from_the_first_step_of_the_lora(sets, pivotal, patience, start):
    values = {**PATIENT, **pivotal}
    assert notes(sets["plain"], values | {"validation.early_stop_patience": patience - 1}) == []
    (said,) = notes(sets["plain"], values | {"validation.early_stop_patience": patience})
    counted = f", counted from step {start} on," if start else ""
    assert said == (
        f"early_stop_patience {patience} has no effect: with a measurement every 10 steps{counted} the run "
        "of 100 ends before"
    )


def test_without_a_lora_patience_is_counted_from_the_beginning(sets):
    tokens_alone = {**PATIENT, "pivotal.token": "TOK", "pivotal.ti_fraction": 1.0}
    assert len(notes(sets["plain"], tokens_alone | {"validation.early_stop_patience": 8})) == 1
    said = notes(sets["plain"], tokens_alone | {"validation.early_stop_patience": 9})
    assert [note.partition(":")[0] for note in said] == [
        "the LoRA settings have no effect",
        "early_stop_patience 9 has no effect",
    ]


def test_previews_of_a_caption_without_the_word_are_warned_of(sets):
    values = {"pivotal.token": "TOK, OHWX", "preview.preview_every": 50}
    (said,) = notes(sets["plain"], values)
    assert said == (
        "previews are drawn with the first caption of the dataset, as there are no prompts, and it holds no "
        "TOK or OHWX: the pictures will not show the subject"
    )
    first, *others = sets["plain"].pictures
    taught = replace(sets["plain"], pictures=(replace(first, captions=("an ohwx",)), *others))
    assert notes(taught, values) == []
    assert notes(sets["plain"], values | {"preview.prompts": "a tok"}) == []
    assert notes(sets["plain"], values | {"preview.preview_every": 0}) == []
    assert notes(sets["plain"], values | {"pivotal.add_token": True}) == []  # before it is drawn
    assert notes(sets["plain"], {"preview.preview_every": 50}) == []


def test_the_caption_of_previews_is_one_that_is_trained_on(sets):
    values = {"pivotal.token": "TOK", "preview.preview_every": 50, "validation.validation_share": 0.25}
    (trained, *_), held_out = (part.pictures for part in sets["plain"].split(0.25))

    def captioned(names):
        pictures = sets["plain"].pictures
        return replace(
            sets["plain"],
            pictures=tuple(replace(p, captions=("a tok",)) if p.name in names else p for p in pictures),
        )

    assert notes(captioned({trained.name}), values) == []
    assert len(notes(captioned({picture.name for picture in held_out}), values)) == 1


def test_sentences_are_short_and_end_open(sets):
    for dataset, values, _, _ in WITHOUT_EFFECT:
        for sentence in notes(sets[dataset], values):
            assert len(sentence) < 200
            assert not sentence.endswith(".")


def test_the_dataset_is_as_it_was(sets):
    before = replace(sets["class"])
    notes(sets["class"], {**LATE_STOP, "run.save_every": 5})
    assert sets["class"] == before
