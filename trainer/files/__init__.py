"""What lies on disk: LoRA files in every layout, their metadata, and writing a file whole or not at all."""
