from dataclasses import replace

from sdxl_trainer.trainer.run_report import RunOutcome, describe_arithmetic, describe_run

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
    reloaded = describe_run(replace(OUTCOME, trained_steps=0), tiny_run.tiny_config(), dataset)
    assert "nothing was trained" in reloaded
    assert "arithmetic" not in reloaded


def test_arithmetic_counts_repeats_batches_and_accumulation(tiny_run, tmp_path):
    dataset = tiny_run.tiny_dataset(tmp_path, repeats=4)
    config = tiny_run.tiny_config(steps=10, batch_size=2, run={"gradient_accumulation": 2})
    assert describe_arithmetic(config, dataset) == (
        "5 pictures, 20 samples an epoch / batch 2 x 2 = 5 steps an epoch; 10 steps = 2.0 epochs"
    )
