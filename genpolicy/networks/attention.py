"""Multi-head attention and the feed-forward layer between attentions."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from genpolicy.errors import UsageError
from genpolicy.networks.checks import check_rate, check_sizes

__all__ = ["Attention", "FeedForward"]


class Attention(nn.Module):
    """Multi-head attention of one sequence to itself or to another.

    Args:
        width: features of a token, divisible by ``n_heads``.
        n_heads: heads.
        dropout: probability of dropping an attention weight in training, in [0, 1).

    Raises:
        UsageError: for settings out of range.

    Source: arXiv 1706.03762, section 3.2.
    """

    def __init__(self, *, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        check_sizes("Attention", width=width, n_heads=n_heads)
        check_rate("Attention", dropout=dropout)
        if width % n_heads:
            raise UsageError(
                f"Attention: width {width} is not divisible by n_heads {n_heads}; change either"
            )
        self.n_heads = n_heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        tokens: Float[Tensor, "batch n width"],
        memory: Float[Tensor, "batch m width"] | None = None,
        allowed: Bool[Tensor, "n m"] | None = None,
    ) -> Float[Tensor, "batch n width"]:
        """Return what each token reads.

        Args:
            tokens: the readers.
            memory: what is read; None is ``tokens``.
            allowed: which memory entry each token may read; None allows all.
        """
        source = tokens if memory is None else memory
        query = rearrange(self.query(tokens), "b n (h d) -> b h n d", h=self.n_heads)
        key, value = rearrange(
            self.key_value(source), "b m (two h d) -> two b h m d", two=2, h=self.n_heads
        )
        read = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=allowed,
            dropout_p=self.dropout if self.training else 0.0,
        )  # (batch, n_heads, n, width / n_heads)
        return self.out(rearrange(read, "b h n d -> b n (h d)"))


class FeedForward(nn.Sequential):
    """Linear layer to ``4 * width``, GELU, dropout, linear layer back.

    Args:
        width: features of a token.
        dropout: probability of dropping a hidden unit in training, in [0, 1).
    """

    def __init__(self, *, width: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
        )
