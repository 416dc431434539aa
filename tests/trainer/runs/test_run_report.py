from dataclasses import replace

from sdxl_trainer.trainer.runs.run_report import RunOutcome, describe_arithmetic, describe_run
from sdxl_trainer.trainer.runs.validation import HeldOutLosses

OUTCOME = RunOutcome(
    name="cat",
    model_title="sdxl.safetensors",
    file_name="cat.safetensors",
    kept_names=["cat-step000003.safetensors"],
    trained_steps=4,
    resumed_from=2,
    final_loss=0.125,
    seconds_per_step=1.5,
    num_layers=722,
    precision="bf16",
    checkpointing="off (as set)",
    num_skipped=0,
    notes=["a note"],
)


def test_report_tells_what_was_done_line_by_line(tiny_run, tmp_path):
    dataset = tiny_run.tiny_dataset(tmp_path, trigger="zyx")
    lines = describe_run(OUTCOME, tiny_run.tiny_config(), dataset).splitlines()
    assert lines[0] == "LoRA 'cat' for sdxl.safetensors: rank 2, alpha 2, attention, 722 layers"
    assert "went on from step 2, trained 4 steps, 1.50 s a step; loss over the last steps 0.1250" in lines
    assert "arithmetic bf16, gradient checkpointing off (as set)" in lines
    assert lines[-4:] == [
        "a note",
        "file cat.safetensors",
        "checkpoints cat-step000003.safetensors",
        "trigger words: zyx",
    ]


def test_skipped_steps_and_a_reload_are_told(tiny_run, tmp_path):
    dataset = tiny_run.tiny_dataset(tmp_path)
    assert "3 steps were skipped" in describe_run(
        replace(OUTCOME, num_skipped=3), tiny_run.tiny_config(), dataset
    )
    reloaded = describe_run(replace(OUTCOME, trained_steps=0, steps=6), tiny_run.tiny_config(), dataset)
    assert "finished before (6 steps): the file was reloaded, nothing was trained" in reloaded
    assert "arithmetic" not in reloaded


def test_arithmetic_counts_repeats_batches_and_accumulation(tiny_run, tmp_path):
    dataset = tiny_run.tiny_dataset(tmp_path, repeats=4)
    config = tiny_run.tiny_config(steps=10, batch_size=2, run={"gradient_accumulation": 2})
    assert describe_arithmetic(config, dataset) == (
        "5 pictures, 20 samples an epoch / batch 2 x 2 = 5 steps an epoch; 10 steps = 2 epochs"
    )


def test_an_early_end_and_the_best_step_are_told(tiny_run, tmp_path):
    losses = HeldOutLosses(
        last_step=4, last_loss=0.3, base_loss=0.5, best_step=2, best_loss=0.2, since_best=2
    )
    outcome = replace(OUTCOME, steps=4, held_out=losses, has_best_file=True)
    config = tiny_run.tiny_config(validation={"validation_share": 0.2, "early_stop_patience": 2})
    report = describe_run(outcome, config, tiny_run.tiny_dataset(tmp_path))
    assert "ended at step 4 of 6: the held-out loss had not fallen for 2 measurements" in report
    assert "try checkpoint_step 2 in Apply LoRA" in report


def test_why_a_run_ended_is_told_from_what_was_asked_and_from_what_was_measured(tiny_run, tmp_path):
    dataset = tiny_run.tiny_dataset(tmp_path)

    def ending(patience=0, asked_end=0, **losses):
        outcome = replace(OUTCOME, steps=4, held_out=HeldOutLosses(**losses), asked_end=asked_end)
        config = tiny_run.tiny_config(
            validation={"validation_share": 0.2 if patience else 0.0, "early_stop_patience": patience}
        )
        lines = describe_run(outcome, config, dataset).splitlines()
        (line,) = [line for line in lines if line.startswith("ended at")]
        return line.removeprefix("ended at step 4 of 6")

    asked = " because it was asked to; set resume to 'continue' to go on"
    gave_up = ": the held-out loss had not fallen for 2 measurements"
    lost = {"last_step": 4, "since_best": 2}
    assert ending() == ending(asked_end=4) == asked
    assert ending(2, **lost).startswith(gave_up)
    assert ending(2, asked_end=4, **lost) == asked  # the measurement of the end cost the patience
    assert ending(2, asked_end=3, **lost).startswith(gave_up)
    assert ending(2, last_step=4, since_best=1) == asked
    assert ending(2).startswith(gave_up)  # its log is gone


def test_kind_optimizer_and_the_rate_that_0_stands_for_are_told(tiny_run, tmp_path):
    config = tiny_run.tiny_config(
        lora={"adapter": "dora"}, optimizer={"optimizer": "lion", "learning_rate": 0.0}
    )
    lines = describe_run(OUTCOME, config, tiny_run.tiny_dataset(tmp_path)).splitlines()
    assert lines[0].startswith("DoRA 'cat' for sdxl.safetensors")
    assert lines[2].startswith("lion, learning rate 2e-05 constant with warmup")


def test_new_words_and_text_encoders_are_told_with_their_steps(tiny_run, tmp_path):
    tiny_run.draw_pictures(tmp_path / "pictures", captions=["TOK"] * 5)
    report = tiny_run.run_tiny(
        tmp_path, pivotal={"token": "TOK"}, text_encoder={"train_text_encoder": "clip_g"}
    ).report
    assert "new words TOK (2 tokens), adamw, learning rate 0.0003, steps 1 to 3" in report
    assert "CLIP-G's LoRA, adamw, learning rate 0.005, steps 4 to 6" in report
    assert "embedding cat_emb: elsewhere its word is embedding:cat_emb" in report
    assert "CLIP-L" not in report
