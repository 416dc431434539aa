"""Test-only node pack: StandInLoader gives the bundled stand-in as MODEL, CLIP and VAE, PictureLists gives
lists as core's dataset nodes do, in versions that have none too."""

import folder_paths
import torch

from .loading import load_stand_in


class StandInLoader:
    CATEGORY = "tests"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {}}

    def load(self):
        model, clip, vae = load_stand_in()
        # as a checkpoint loader does it, but for widths of the stand-in's own
        for name in ("clip_l", "clip_g"):
            tokenizer = getattr(clip.tokenizer, name)
            tokenizer.embedding_directory = folder_paths.get_folder_paths("embeddings")
            encoder = getattr(clip.cond_stage_model, name).transformer
            tokenizer.embedding_size = encoder.get_input_embeddings().weight.shape[1]
        return model, clip, vae


class PictureLists:
    """Noise of four sizes, a text and a mask of half the size for each; the left half of a mask is white."""

    CATEGORY = "tests"
    RETURN_TYPES = ("IMAGE", "STRING", "MASK")
    OUTPUT_IS_LIST = (True, True, True)
    FUNCTION = "make"
    SIZES = ((64, 64), (128, 64), (64, 128), (90, 70))

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"seed": ("INT", {"default": 0})}}

    def make(self, seed):
        generator = torch.Generator().manual_seed(seed)
        images = [torch.rand(1, height, width, 3, generator=generator) for width, height in self.SIZES]
        masks = [torch.zeros(1, height // 2, width // 2) for width, height in self.SIZES]
        for mask in masks:
            mask[..., : mask.shape[-1] // 2] = 1
        return images, [f"zorp number {index}" for index in range(len(images))], masks


NODE_CLASS_MAPPINGS = {"StandInLoader": StandInLoader, "PictureLists": PictureLists}
