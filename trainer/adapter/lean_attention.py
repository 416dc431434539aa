"""Attention of the private UNet view without what SDXL never uses, and with q, k, v computed together.

Same result, bit for bit, as diffusers' `AttnProcessor2_0` for attention without masks, norms, residual or
rescaling, which is all that SDXL has. diffusers divides every attention output by 1.0, in both directions.
"""

from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor

from .fused_lora import LoRAGroup


def is_plain(attention: Attention) -> bool:
    """True when the lean processor computes the same as the one in place."""
    return (
        type(attention.processor) is AttnProcessor2_0
        and attention.spatial_norm is None
        and attention.group_norm is None
        and attention.norm_q is None
        and attention.norm_k is None
        and not attention.norm_cross
        and not attention.residual_connection
        and attention.rescale_output_factor == 1.0
        and attention.to_out[1].p == 0.0
    )


class LeanAttention:
    """Attention processor for the layers of one `Attention` module.

    Args:
        query_key_value: to_q, to_k, to_v of self-attention as one group, or None to call them one by one.
        key_value: to_k, to_v of cross-attention as one group, or None.
    """

    def __init__(self, query_key_value: LoRAGroup | None, key_value: LoRAGroup | None) -> None:
        self.query_key_value = query_key_value
        self.key_value = key_value

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_unused: Any,
    ) -> Tensor:
        """hidden_states (B, T, C), encoder_hidden_states (B, S, D) or None -> (B, T, C).

        Raises:
            ValueError: a mask is given; SDXL attends to every token.
        """
        if attention_mask is not None:
            raise ValueError("attention masks are not part of SDXL, but one was given")
        query, key, value = self._project(attn, hidden_states, encoder_hidden_states)
        attended = F.scaled_dot_product_attention(
            _split_heads(query, attn.heads), _split_heads(key, attn.heads), _split_heads(value, attn.heads)
        )
        return attn.to_out[0](attended.transpose(1, 2).flatten(2))

    def _project(self, attn: Attention, hidden: Tensor, encoder: Tensor | None) -> tuple[Tensor, ...]:
        if encoder is None and self.query_key_value is not None:
            return self.query_key_value(hidden)
        source = hidden if encoder is None else encoder
        query = attn.to_q(hidden)
        if self.key_value is not None:
            return (query, *self.key_value(source))
        return query, attn.to_k(source), attn.to_v(source)


def _split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, T, heads * head_dim) -> (B, heads, T, head_dim)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
