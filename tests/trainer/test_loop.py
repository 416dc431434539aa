import dataclasses
import math

import pytest
import torch
from sdxl_trainer.trainer.adapter.lora import attach_adapter
from sdxl_trainer.trainer.config import NoiseConfig
from sdxl_trainer.trainer.data.batches import BatchPlan
from sdxl_trainer.trainer.diffusion.noise_draw import NoiseDraw, draw_noise
from sdxl_trainer.trainer.diffusion.noise_schedule import NoiseSchedule
from sdxl_trainer.trainer.encoding.encoded_dataset import Encoding, encode_dataset
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.events import SilentListener
from sdxl_trainer.trainer.loop import StopEarly, micro_step, run_steps
from sdxl_trainer.trainer.memory_plan import LEVELS, MemoryPlan
from sdxl_trainer.trainer.optimization.loss_scale import LossScale
from sdxl_trainer.trainer.sdxl.model import Denoiser
from sdxl_trainer.trainer.trained_part import TrainedPart
from sdxl_trainer.trainer.training import ClassImages, Training

CPU = torch.device("cpu")
CLASS_PROMPT = "an animal"


class Faulty(Denoiser):
    """Predicts, but meets with a fault in the calls whose numbers are in `faults`."""

    faults = frozenset()
    calls = 0

    def predict(self, noisy_latents, timesteps, batch):
        type(self).calls += 1
        return self.meet_fault(super().predict(noisy_latents, timesteps, batch), type(self).calls - 1)

    def meet_fault(self, model_pred, call):
        return model_pred * (math.nan if call in self.faults else 1)


def faulty(faults, out_of_memory=False):
    def meet_fault(self, model_pred, call):
        if call in faults:
            # a tensor that still needs its backward pass, as half a step would leave behind
            raise torch.cuda.OutOfMemoryError("out of memory")
        return model_pred

    values = {"faults": faults, "calls": 0}
    return type("Faulty", (Faulty,), values | ({"meet_fault": meet_fault} if out_of_memory else {}))


def encode(tiny_run, dataset, dtype=torch.float32):
    model, listener = tiny_run.TinyModel(), SilentListener()
    encoded = encode_dataset(dataset, Encoding(model, listener, lambda: None), "inference", [CLASS_PROMPT])
    return encoded.to(CPU, dtype)


@pytest.fixture
def start(tiny_run, tmp_path):
    def build(kind=Denoiser, dtype=torch.float32, dataset=None, **values):
        config = tiny_run.tiny_config(**values)
        dataset = dataset or tiny_run.tiny_dataset(tmp_path)
        unet = tiny_run.tiny_unet(dtype)
        adapter = attach_adapter(unet, config.lora, config.seed)
        return Training(
            config=config,
            denoiser=kind(unet, NoiseSchedule.sdxl()),
            adapter=adapter,
            parts=(TrainedPart.of("unet", adapter, config, adapter.is_up),),
            plan=BatchPlan(dataset, config.batch_size, config.seed, config.objective.caption_dropout),
            encoded=encode(tiny_run, dataset, dtype),
            memory=MemoryPlan(LEVELS[0], 2**30, 2**31, False),
            loss_scale=LossScale(CPU) if dtype == torch.float16 else None,
        )

    return build


def run(training):
    reports = []
    run_steps(training, reports.append, lambda read: None)
    return reports


def test_reports_count_steps_epochs_and_rates(start):
    training = start(batch_size=2, run={"gradient_accumulation": 2}, optimizer={"lr_schedule": "constant"})
    reports = run(training)
    assert [r.step for r in reports] == [1, 2, 3, 4, 5, 6]
    assert {r.num_steps for r in reports} == {6}
    # 5 pictures in two buckets of 2 and 3 are 3 batches; a step takes 2 of them
    assert [r.epoch for r in reports] == pytest.approx([2 * n / 3 for n in range(1, 7)])
    assert {r.learning_rate for r in reports} == {1e-2}
    assert all(r.seconds > 0 and math.isfinite(r.loss) and r.grad_norm > 0 for r in reports)


def one_of(draw, row):
    noise = draw.noise[row : row + 1]
    return NoiseDraw(noise, noise, draw.timesteps[row : row + 1])


def test_four_micro_steps_of_one_are_one_of_four(start, tiny_run, tmp_path):
    tiny_run.draw_pictures(tmp_path / "pictures", 1)
    training = start(dataset=tiny_run.tiny_dataset(tmp_path), batch_size=4)
    draw = training.plan.batch(0)[0]
    samples = [draw] * 4
    together = training.encoded.batch(samples)
    draw = draw_noise(together.latents.shape, 1, 0, NoiseConfig(), 1000)
    weights = training.adapter.weights
    weights.master.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(1))
    weights.publish()

    loss = micro_step(training, together, draw, 1 / 4)
    at_once = weights.gradient.clone()
    weights.zero_gradients()
    one_by_one = [
        micro_step(training, training.encoded.batch([s]), one_of(draw, n), 1 / 4)
        for n, s in enumerate(samples)
    ]
    assert (weights.gradient - at_once).norm() <= 1e-5 * at_once.norm()
    assert float(sum(one_by_one)) == pytest.approx(float(loss), rel=1e-5)


def test_pictures_that_stay_in_main_memory_are_learned_on_the_device(start):
    training = start()
    device = training.denoiser.unet.to(device="meta").device
    training.encoded = training.encoded.to(device, torch.float32, is_resident=False)
    batch = training.encoded.batch(training.plan.batch(0))
    assert training.device == batch.latents.device == device  # else noise and latents do not meet


def test_step_without_finite_gradient_is_left_out_and_counted(start):
    training = start(faulty({2}), optimizer={"lr_schedule": "constant"})
    states = []
    run_steps(
        training,
        lambda report: states.append((report, training.adapter.weights.snapshot())),
        lambda read: None,
    )
    reports, weights = zip(*states, strict=True)
    assert [math.isnan(r.loss) for r in reports] == [False, False, True, False, False, False]
    assert math.isnan(reports[2].grad_norm)
    assert torch.equal(weights[2], weights[1])
    assert not torch.equal(weights[3], weights[2])
    assert training.num_skipped == 1
    assert training.skipped_in_a_row == 0
    assert bool(weights[-1].isfinite().all())


def test_five_bad_gradients_in_a_row_end_the_run_naming_step_rate_and_type(start):
    training = start(faulty(set(range(3, 99))), steps=20, optimizer={"lr_schedule": "constant"})
    with pytest.raises(
        InputError, match=r"5 steps in a row up to step 8 \(learning rate 0.01, torch.float32\)"
    ):
        run(training)
    assert bool(training.adapter.weights.master.isfinite().all())
    assert training.is_between_steps


def test_memory_that_runs_out_once_changes_nothing_but_time(start):
    plain, saved = start(run={"gradient_accumulation": 2}), None
    run(plain)
    saved = start(faulty({3}, out_of_memory=True), run={"gradient_accumulation": 2})
    run(saved)
    assert torch.equal(plain.adapter.weights.master, saved.adapter.weights.master)
    blocks = [m for m in saved.denoiser.unet.modules() if "forward" in vars(m)]
    assert any(type(m).__name__ == "BasicTransformerBlock" for m in blocks)


def test_memory_that_runs_out_twice_ends_the_run_with_numbers(start):
    training = start(faulty({3, 4}, out_of_memory=True))
    with pytest.raises(InputError, match=r"out of memory at step 4.*1\.0 GiB.*GiB are free; lower the batch"):
        run(training)
    assert training.step == 3
    assert training.is_between_steps


def test_half_precision_starts_by_finding_its_loss_scale(start):
    # the tiny UNet's gradients times 2^30 overflow float16 until the scale has fallen
    training = start(dtype=torch.float16, steps=30)
    training.loss_scale.scale *= 2**14
    run(training)
    assert training.num_skipped > 0
    assert training.skipped_in_a_row == 0
    assert training.loss_scale.scale < 2**30
    assert bool(training.adapter.weights.master.isfinite().all())


def test_bfloat16_learns_in_float32(start):
    training = start(dtype=torch.bfloat16)
    before = training.adapter.weights.snapshot()
    run(training)
    weights = training.adapter.weights
    assert weights.master.dtype == torch.float32
    assert not torch.equal(weights.master, before)
    assert torch.equal(weights.compute, weights.master.bfloat16())
    assert not torch.equal(weights.master, weights.master.bfloat16().float())


def test_a_small_batch_weighs_as_much_as_its_samples(start, tiny_run, tmp_path):
    """2 and 3 pictures in two buckets: the loss of a step is the mean over all five samples."""
    training = start(
        batch_size=3, steps=1, run={"gradient_accumulation": 2}, objective={"caption_dropout": 0}
    )
    report = run(training)[0]
    again = start(batch_size=3, steps=1, run={"gradient_accumulation": 2}, objective={"caption_dropout": 0})
    losses = []
    for index in range(2):
        batch = again.encoded.batch(again.plan.batch(index))
        draw = draw_noise(batch.latents.shape, 42, index, NoiseConfig(), 1000)
        losses.append(float(micro_step(again, batch, draw, 1 / 5)))
    assert report.loss == pytest.approx(sum(losses), rel=1e-6)


def gradient_of_first_step(training):
    training.config = dataclasses.replace(training.config, steps=1)
    optimizer = dataclasses.replace(training.config.optimizer, max_grad_norm=0)
    training.config = dataclasses.replace(training.config, optimizer=optimizer)
    spread = torch.Generator().manual_seed(1)
    training.adapter.weights.master.uniform_(-0.1, 0.1, generator=spread)
    report = run(training)[0]
    return training.adapter.weights.gradient.clone(), report.loss


def class_pictures(tiny_run, tmp_path):
    """Three pictures, so that class batches are other ones than the subject's."""
    folder = tmp_path / "class"
    tiny_run.draw_pictures(folder / "pictures", 3, ["one animal", "two animals", "three animals"])
    return tiny_run.tiny_dataset(folder)


def test_class_images_add_their_weighted_mean_to_the_loss_of_the_subject(start, tiny_run, tmp_path):
    """loss = instance + w * prior, as train_dreambooth_lora_sdxl.py of diffusers; batches of 2 and 1."""
    values = {"batch_size": 2, "objective": {"caption_dropout": 0}, "run": {"gradient_accumulation": 2}}
    pictures = class_pictures(tiny_run, tmp_path)
    plan = BatchPlan(pictures, 2, 42, purpose="class")
    encoded = encode(tiny_run, pictures)

    def with_weight(weight):
        training = start(prior={"prior_loss_weight": weight}, **values)
        training.class_images = ClassImages(plan, encoded)
        return gradient_of_first_step(training)

    alone, alone_loss = gradient_of_first_step(start(**values))
    none, none_loss = with_weight(0.0)
    assert torch.equal(none, alone)
    assert none_loss == pytest.approx(alone_loss)
    half, half_loss = with_weight(0.5)
    full, full_loss = with_weight(1.0)
    assert torch.allclose(full - alone, 2 * (half - alone), atol=1e-6)
    assert full_loss - alone_loss == pytest.approx(2 * (half_loss - alone_loss), rel=1e-4)
    assert (full - alone).norm() > 0.1 * alone.norm()


def test_the_noise_of_class_images_is_not_the_subjects(start, tiny_run, tmp_path):
    """The same picture as subject and as class would otherwise only double the gradient."""
    dataset = tiny_run.tiny_dataset(tmp_path)
    values = {"objective": {"caption_dropout": 0}, "batch_size": 1}
    training = start(dataset=dataset, **values)
    training.class_images = ClassImages(training.plan, training.encoded)
    both, _ = gradient_of_first_step(training)
    alone, _ = gradient_of_first_step(start(dataset=dataset, **values))
    assert torch.nn.functional.cosine_similarity(both - alone, alone, dim=0) < 0.9


def test_a_fresh_adapter_agrees_with_its_teacher_and_a_changed_one_is_drawn_back(start):
    values = {"prior_preservation": "base_model", "class_prompt": CLASS_PROMPT}
    fresh = start(prior=values, steps=1, objective={"caption_dropout": 0})
    plain = start(steps=1, objective={"caption_dropout": 0})
    assert run(fresh)[0].loss == pytest.approx(run(plain)[0].loss, rel=1e-6)

    moved, loss = gradient_of_first_step(start(prior=values))
    alone, alone_loss = gradient_of_first_step(start())
    assert loss > alone_loss
    weights = start().adapter.weights.master
    weights.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(1))
    # downhill in the teacher's part of the loss leads back to the base model
    assert torch.dot(moved - alone, weights) > 0


def test_teacher_sees_the_class_prompt_and_not_the_caption(start):
    heard = []

    class Listening(Denoiser):
        def predict(self, noisy_latents, timesteps, batch):
            heard.append((noisy_latents, batch.prompt_embeds, torch.is_grad_enabled()))
            return super().predict(noisy_latents, timesteps, batch)

    prior = {"prior_preservation": "base_model", "class_prompt": CLASS_PROMPT}
    training = start(Listening, prior=prior, steps=1)
    run(training)
    class_embeds = training.encoded.conditions[CLASS_PROMPT].prompt_embeds
    assert [torch.equal(embeds[0][: len(class_embeds)], class_embeds) for _, embeds, _ in heard].count(
        True
    ) == 2
    assert sorted(grad for _, _, grad in heard) == [False, True, True]
    assert all(torch.equal(noisy, heard[0][0]) for noisy, _, _ in heard)


def test_stopping_early_is_a_success_and_loses_no_report(start, monkeypatch):
    monkeypatch.setattr(Training, "read_every", 100)
    training, heard = start(steps=9), []

    def stop_at_four(read):
        if training.step == 4:
            raise StopEarly

    run_steps(training, heard.append, stop_at_four)
    assert training.step == 4
    assert [report.step for report in heard] == [1, 2, 3, 4]


def test_evaluation_shows_the_mean_and_gives_the_weights_back(start):
    training = start(optimizer={"ema_decay": 0.9})
    run(training)
    weights = training.adapter.weights
    before = weights.master.clone()
    with training.evaluation():
        assert not torch.equal(weights.master, before)
        assert torch.equal(weights.master, training.parts[0].average.state()["average"])
    assert torch.equal(weights.master, before)


def test_prodigys_report_tells_the_rate_that_acts(start):
    training = start(optimizer={"optimizer": "prodigy", "learning_rate": 0.0, "lr_schedule": "constant"})
    reports = run(training)
    assert {report.learning_rate for report in reports} == {1.0}
    assert 0 < reports[-1].effective_learning_rate < 0.1
    assert reports[-1].effective_learning_rate == pytest.approx(training.parts[0].optimizer.groups[0]["d"])


def test_no_global_random_number_is_drawn(start):
    before = torch.random.get_rng_state()
    run(start())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_figures_read_late_are_the_same_figures(start, monkeypatch):
    every_step = run(start(faulty({2}), steps=12))
    monkeypatch.setattr(Training, "read_every", 5)
    training, heard = start(faulty({2}), steps=12), []
    run_steps(training, heard.append, lambda read: read() if training.step == 6 else None)
    assert [r.step for r in heard] == list(range(1, 13))
    for early, late in zip(every_step, heard, strict=True):
        assert repr((early.loss, early.grad_norm, early.learning_rate)) == repr(
            (late.loss, late.grad_norm, late.learning_rate)
        )


def test_nothing_waits_for_the_device_between_readings(start, monkeypatch):
    """Every `.item()` and `bool()` of a tensor on the way would stop an accelerator."""
    monkeypatch.setattr(Training, "read_every", 100)
    training, waits = start(steps=3), []
    tolist = torch.Tensor.tolist

    def counted(name, original):
        return lambda *args, **kwargs: waits.append(name) or original(*args, **kwargs)

    run(start(steps=1))
    for name in ("item", "__bool__", "__float__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, counted(name, getattr(torch.Tensor, name)))
    monkeypatch.setattr(torch.Tensor, "tolist", counted("tolist", tolist))
    run(training)
    assert waits == ["tolist"]
