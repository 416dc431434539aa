"""A run from its beginning to its files: checkpoints, resuming, validation, previews, logs."""
