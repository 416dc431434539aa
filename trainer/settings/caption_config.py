"""Settings of captioning a dataset: what is asked of the model, and what becomes of its answer."""

from dataclasses import dataclass
from typing import Literal, get_args

from .captioner_config import CaptionStyle
from .config_checks import one_of, refuse

IfExists = Literal["skip", "overwrite", "append", "prepend"]
SaveCaptions = Literal["no", "txt", "metadata.jsonl"]

STRIP_PHRASES = """\
the image is
the image shows
the image depicts
the image features
the image captures
the image presents
this image is
this image shows
this image depicts
this image features
the picture is
the picture shows
the picture depicts
this picture shows
the photo shows
the photo depicts
this photo shows
the photograph shows
in the image
in this image
in the picture
in this picture
in the photo
in this photo
we can see
you can see
this is an image of
this is a picture of
an image of
a picture of
there is
there are"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionConfig:
    style: CaptionStyle = "short"
    """What is asked for: a sentence, a paragraph, comma-separated tags, or the answer to your question."""
    question: str = ""
    """For style custom: what to ask about each picture, such as 'What does she wear?'."""
    if_exists: IfExists = "skip"
    """Pictures with a caption of their own: keep it, overwrite it, or join both; kohya: append_tags."""
    prefix: str = ""
    """Put before each new caption, such as 'a photo of TOK, '; kohya: prefix. The trigger comes by itself."""
    suffix: str = ""
    """Put behind each new caption, such as ', pencil drawing'; kohya: postfix."""
    strip_phrases: str = STRIP_PHRASES
    """Phrases cut off where a caption begins with them, one a line, in capitals or not."""
    save: SaveCaptions = "no"
    """Where captions are written: nowhere, a text file beside each picture, or one metadata.jsonl for all."""

    def __post_init__(self) -> None:
        refuse(
            "caption settings",
            [
                one_of("style", self.style, get_args(CaptionStyle)),
                one_of("if_exists", self.if_exists, get_args(IfExists)),
                one_of("save", self.save, get_args(SaveCaptions)),
                "style is 'custom', but question is empty: say what to ask about each picture"
                if self.style == "custom" and not self.question.strip()
                else "",
            ],
        )

    @property
    def asked(self) -> str:
        """The question that reaches the model: none where the style says what to ask."""
        return self.question.strip() if self.style == "custom" else ""

    @property
    def phrases(self) -> tuple[str, ...]:
        """The phrases to cut off, without empty lines."""
        return tuple(line.strip() for line in self.strip_phrases.splitlines() if line.strip())
