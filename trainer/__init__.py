"""Train SDXL LoRAs with PyTorch alone: nothing in this package knows that ComfyUI exists."""
