"""The text encoders of a run that trains them: conditions with a gradient, and a table once it has ended."""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapter.lora import Adapter
from ..diffusion.conditioning import TextCondition, stack_conditions
from ..encoding.encoded_captions import EncodedCaptions, encode_captions
from ..events import Listener
from ..sdxl.model import TextEncoders
from ..sdxl.text_encoder import SDXLTextEncoder
from .new_tokens import NewTokens

EncodePrompts = Callable[[SDXLTextEncoder], Any]


class _AskedToStopError(Exception):
    """Between two captions: the listener wants to stop."""


class TrainedText:
    """Stands where `EncodedCaptions` does, as long as something of the text encoders learns and after it.

    While it learns, captions that training can change are encoded for each batch; the others, those without
    a new token where only tokens learn, once. When all of it has settled, `settle` encodes every caption once
    more and lets the encoders go.

    Args:
        encoders: open, private; adapters and tokens are in them.
        adapters: by "clip_l" and "clip_g", those there are.
        new_tokens: whose vectors are in the encoders, if any.
        captions: every caption of the run.
        listener: hears of the last encoding.
        release: takes everything off the encoders and lets them go.
    """

    def __init__(
        self,
        encoders: TextEncoders,
        adapters: Mapping[str, Adapter],
        new_tokens: NewTokens | None,
        captions: Collection[str],
        listener: Listener,
        release: Callable[[], None],
    ) -> None:
        self.adapters = dict(adapters)
        self._encoder: SDXLTextEncoder | None = SDXLTextEncoder(encoders, new_tokens)
        self.new_tokens = new_tokens
        self._captions = set(captions)
        self._listener = listener
        self._release = release
        self._networks: tuple[nn.Module, ...] = (encoders.clip_l, encoders.clip_g)
        self._device = encoders.clip_l.device
        self._table = EncodedCaptions()
        self._base = EncodedCaptions()
        self._encode_prompts: EncodePrompts | None = None
        self._prompts: Any = None

    @property
    def is_learning(self) -> bool:
        """False once the encoders are gone and only the table is left."""
        return self._encoder is not None

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The encoders, as long as they are there."""
        return self._networks if self.is_learning else ()

    def holds_token(self, caption: str) -> bool:
        return self.new_tokens is not None and self.new_tokens.holds(caption)

    def stack(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """`prompt_embeds` (B, T, D) and `pooled` (B, P); with a gradient where one is asked for."""
        changing = [c for c in dict.fromkeys(captions) if self._changes(c)]
        found: dict[str, TextCondition] = {}
        if changing:
            assert self._encoder is not None
            asked = torch.is_grad_enabled()
            encode = self._encoder.encode_with_gradient if asked else self._encoder.encode
            found = dict(zip(changing, encode(changing), strict=True))
        return stack_conditions([found.get(c) or self._constant(c) for c in captions])

    def stack_base(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """As without the adapters. Of captions without new tokens, known from `prepare_base`."""
        return self._base.stack(captions)

    def to(self, device: torch.device, dtype: torch.dtype) -> "TrainedText":
        """Itself: it lives on the encoders' device, and the denoiser casts what it reads."""
        return self

    @property
    def num_bytes(self) -> int:
        """0: what it holds is on the device already."""
        return 0

    def prepare_base(self, captions: Sequence[str]) -> None:
        """Encode captions as the model reads them without training, for `stack_base`."""
        assert self._encoder is not None
        with contextlib.ExitStack() as stack:
            for adapter in self.adapters.values():
                stack.enter_context(adapter.disabled())
            encoded = encode_captions(captions, self._encoder.encode, self._listener, lambda: None)
        self._base = encoded.to(self._device, torch.float32)

    def draws_prompts(self, encode_prompts: EncodePrompts) -> None:
        """Say how the prompts of previews are encoded, which is done at the last for `prompts`, too."""
        self._encode_prompts = encode_prompts

    def prompts(self) -> Any:
        """The prompts of previews as the encoders read them now."""
        assert self._encode_prompts is not None
        return self._encode_prompts(self._encoder) if self._encoder is not None else self._prompts

    def settle(self, dtype: torch.dtype) -> None:
        """Nothing of the text changes any more: encode everything once and let the encoders go.

        Where the listener asks to stop meanwhile, all stays as it was: the run is about to be saved.

        Args:
            dtype: of the denoiser, in which the table is kept.

        Raises:
            InputError: a caption comes out as NaN or infinite.
        """
        assert self._encoder is not None
        try:
            with contextlib.ExitStack() as stack:
                for adapter in self.adapters.values():
                    stack.enter_context(adapter.evaluating())
                table = encode_captions(
                    self._captions, self._encoder.encode, self._listener, self._go_on_unless_asked
                )
                if self._encode_prompts is not None:
                    self._prompts = self._encode_prompts(self._encoder)
        except _AskedToStopError:
            return
        self._table = table.to(self._device, dtype)
        self._base = self._base.to(self._device, dtype)
        self._encoder, self._networks = None, ()
        self.adapters.clear()
        self._release()

    def _go_on_unless_asked(self) -> None:
        if self._listener.should_stop():
            raise _AskedToStopError

    def _changes(self, caption: str) -> bool:
        """Whether training moves this caption's condition."""
        if not self.is_learning:
            return False
        return self.holds_token(caption) or any(a.mode.is_on for a in self.adapters.values())

    def _constant(self, caption: str) -> TextCondition:
        if caption not in self._table:
            assert self._encoder is not None
            # alone, so that its bits do not depend on when it is met first
            (self._table[caption],) = self._encoder.encode([caption])
        return self._table[caption]
