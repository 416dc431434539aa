"""The only rooms that know how ComfyUI holds models, folders, progress and cancelling.

`host_model` gives a run the weights of MODEL, CLIP and VAE; `lora_patches` gives the result back.
"""
