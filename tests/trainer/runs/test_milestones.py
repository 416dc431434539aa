import pytest
from sdxl_trainer.trainer.runs.milestones import Milestones


def milestones(tiny_run, steps_per_epoch=4, **values):
    return Milestones.of(tiny_run.tiny_config(**{"steps": 10, **values}), steps_per_epoch)


def steps_of(ask):
    return [step for step in range(11) if ask(step)]


@pytest.mark.parametrize(
    ("run", "steps"),
    [
        ({"save_every": 3}, [3, 6, 9]),
        ({"save_every": 5}, [5]),  # the last step has the final file
        ({"save_every": 0}, []),
        ({"save_every": 3, "save_every_epochs": 1}, [4, 8]),
        ({"save_every": 3, "save_every_epochs": 2}, [8]),
    ],
)
def test_checkpoints(tiny_run, run, steps):
    found = milestones(tiny_run, run=run)
    assert steps_of(found.saves_at) == steps
    assert found.num_checkpoints == len(steps)


@pytest.mark.parametrize(
    ("validation", "steps"),
    [
        ({}, []),
        ({"validate_every": 2}, []),
        ({"validation_share": 0.2, "validate_every": 4}, [0, 4, 8, 10]),
        ({"validation_share": 0.2}, [0, 3, 6, 9, 10]),
    ],
)
def test_validation(tiny_run, validation, steps):
    assert steps_of(milestones(tiny_run, validation=validation, run={"save_every": 3}).validates_at) == steps


def test_validation_without_checkpoints_is_at_both_ends(tiny_run):
    found = milestones(tiny_run, validation={"validation_share": 0.2}, run={"save_every": 0})
    assert steps_of(found.validates_at) == [0, 10]


@pytest.mark.parametrize(("every", "steps"), [(0, []), (4, [0, 4, 8, 10]), (99, [0, 10])])
def test_previews(tiny_run, every, steps):
    assert steps_of(milestones(tiny_run, preview={"preview_every": every}).previews_at) == steps
