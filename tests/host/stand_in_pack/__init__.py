"""Test-only node pack: StandInLoader gives the bundled stand-in as MODEL, CLIP and VAE."""

from .loading import load_stand_in


class StandInLoader:
    CATEGORY = "tests"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {}}

    def load(self):
        return load_stand_in()


NODE_CLASS_MAPPINGS = {"StandInLoader": StandInLoader}
