"""How many optimizer steps a run takes, and the arithmetic in words."""

import math

from ..config import TrainConfig
from ..data.dataset import TrainingSet
from .recipes import Preset


def count_steps(
    recipe: Preset, steps: int, epochs: int, config: TrainConfig, dataset: TrainingSet
) -> tuple[int, str]:
    """Optimizer steps of the run, and their arithmetic in words.

    Args:
        recipe: decides where neither of the next two does.
        steps: asked for; 0 = from `epochs`.
        epochs: asked for; 0 = the recipe's length.
        config: of the run, but for its steps.
        dataset: all pictures, those that will be held out too.
    """
    if steps:
        return steps, ""
    share = config.validation.validation_share
    trained = dataset.split(share)[0] if share else dataset
    length, num_pictures = recipe.length, len(trained.pictures)
    accumulation = config.run.gradient_accumulation
    samples_a_step = config.batch_size * accumulation
    batch = f"batch {config.batch_size}" + (f" x {accumulation}" if accumulation > 1 else "")
    epochs = epochs or length.epochs
    if epochs:
        repeats = recipe.repeats if trained.num_samples == num_pictures else 1
        an_epoch, words = _steps_an_epoch(trained, repeats, config.batch_size, accumulation)
        return epochs * an_epoch, f"{words} / {batch} = {an_epoch} steps an epoch x {epochs} epochs"
    if length.steps:
        views = length.steps * samples_a_step / num_pictures
        return length.steps, f"x {batch} / {_count(num_pictures)} = each is seen {views:.0f} times"
    wanted = num_pictures * length.steps_per_picture
    at_batch_1 = min(max(wanted, length.min_steps), length.max_steps or wanted)
    words = f"{_count(num_pictures)} x {length.steps_per_picture}"
    if wanted != at_batch_1:
        words += f" = {wanted}, kept within {length.min_steps} to {length.max_steps}"
    if samples_a_step > 1:
        words += f", / {samples_a_step} samples a step"
    others = [f"x {factor} = {num_pictures * factor}" for factor in length.also_tried]
    if others:
        words += f"; the recipe tried {' and '.join(others)} too"
    return math.ceil(at_batch_1 / samples_a_step), words


def _steps_an_epoch(
    dataset: TrainingSet, repeats: int, batch_size: int, accumulation: int
) -> tuple[int, str]:
    """Optimizer steps in an epoch that shows each picture `repeats` times as often, and its samples in words.

    A batch never mixes buckets, so it may be a little more than samples / batch.
    """
    samples = [number * repeats for number in dataset.samples_by_bucket.values()]
    num_pictures, an_epoch = (
        len(dataset.pictures),
        math.ceil(sum(math.ceil(number / batch_size) for number in samples) / accumulation),
    )
    each, rest = divmod(sum(samples), num_pictures)
    words = f"{_count(num_pictures)} x {each} repeats" if each > 1 else _count(num_pictures)
    if rest:
        words = f"{sum(samples)} samples"
    if an_epoch > math.ceil(sum(samples) / (batch_size * accumulation)):
        words += f" in {len(samples)} buckets"
    return an_epoch, words


def _count(num_pictures: int) -> str:
    return f"{num_pictures} picture" + ("s" if num_pictures != 1 else "")
