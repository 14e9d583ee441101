"""Networks and encoders: shapes in, shapes out, no word of diffusion."""

from genpolicy.networks.embeddings import SinusoidalEmbedding, TimeEmbedding
from genpolicy.networks.encoders import LowDimEncoder
from genpolicy.networks.mlp import MLP
from genpolicy.networks.residual_mlp import ResidualMLP
from genpolicy.networks.weights import load_teacher_weights, weight_decay_groups

__all__ = [
    "MLP",
    "LowDimEncoder",
    "ResidualMLP",
    "SinusoidalEmbedding",
    "TimeEmbedding",
    "load_teacher_weights",
    "weight_decay_groups",
]
