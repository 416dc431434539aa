"""Test-only node pack: StandInLoader gives the bundled stand-in as MODEL, CLIP and VAE."""

import folder_paths

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


NODE_CLASS_MAPPINGS = {"StandInLoader": StandInLoader}
