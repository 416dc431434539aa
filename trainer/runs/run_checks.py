"""What was checked of a run at its end, in sentences: each of them would otherwise have been an error."""

from ..training import Training
from .run_folder import RunFiles


def checks_at_end(training: Training, files: RunFiles) -> list[str]:
    """Of a run whose files were just written and read back (`require_moved`, `require_same_files`)."""
    checks = []
    for part in training.parts:
        first, _ = part.window
        if training.step > first:
            checks.append(f"{part.size - part.num_still()} of {part.size} {part.unit} have moved")
        else:
            checks.append(f"{part.title} had not begun to learn, which it does after step {first}")
    written = [files.lora, *files.embeddings_beside(files.lora)]
    skipped = "no step was" if not training.num_skipped else f"{training.num_skipped} steps were"
    return [
        *checks,
        "every weight is a finite number",
        f"{' and '.join(path.name for path in written)}: read back, equal to what was trained, bit for bit",
        f"{skipped} left out for a gradient that is not finite",
    ]


def checks_of_reloaded(files: RunFiles) -> list[str]:
    """Of a run that was found finished."""
    return [f"{files.lora.name} comes from these very settings, this model and this dataset"]
