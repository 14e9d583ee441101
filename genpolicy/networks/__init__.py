"""Networks and encoders: shapes in, shapes out, no word of diffusion.

Every network takes ``(x, time, obs)`` of shapes ``(batch, horizon, action)``, ``(batch,)`` or
``(batch, n_times)``, and ``(batch, n_obs_steps, obs_dim)`` and returns the shape of ``x``. Encoders
take normalized observations ``{key: (batch, n_obs_steps, *shape)}`` and return
``(batch, n_obs_steps, obs_dim)``. None has batch norms, so no row depends on another. For low
precision run them under ``torch.autocast``: casting a module would round its time frequencies.
"""

from genpolicy.networks.anchors import AnchorEncoder, AnchorNetwork
from genpolicy.networks.dit import DiT
from genpolicy.networks.dynamics import DynamicsEnsemble, Imagined
from genpolicy.networks.embeddings import FourierEmbedding, SinusoidalEmbedding, TimeEmbedding
from genpolicy.networks.encoders import LowDimEncoder
from genpolicy.networks.energy import EnergyMLP
from genpolicy.networks.mlp import MLP
from genpolicy.networks.residual_mlp import ResidualMLP
from genpolicy.networks.resnet import ResNet18, SmallResNet
from genpolicy.networks.transductive import (
    Bilinear,
    TransductiveEncoder,
    TransductiveQNetwork,
    TransductiveValueNetwork,
)
from genpolicy.networks.transformer import ChiTransformer
from genpolicy.networks.unet1d import ConditionalUnet1D
from genpolicy.networks.value import QFunctions, QNetwork, ValueNetwork
from genpolicy.networks.vision import Crop, ImageEncoder, SpatialSoftmax
from genpolicy.networks.weights import CopiedWeights, load_teacher_weights, weight_decay_groups

__all__ = [
    "MLP",
    "AnchorEncoder",
    "AnchorNetwork",
    "Bilinear",
    "ChiTransformer",
    "ConditionalUnet1D",
    "CopiedWeights",
    "Crop",
    "DiT",
    "DynamicsEnsemble",
    "EnergyMLP",
    "FourierEmbedding",
    "ImageEncoder",
    "Imagined",
    "LowDimEncoder",
    "QFunctions",
    "QNetwork",
    "ResNet18",
    "ResidualMLP",
    "SinusoidalEmbedding",
    "SmallResNet",
    "SpatialSoftmax",
    "TimeEmbedding",
    "TransductiveEncoder",
    "TransductiveQNetwork",
    "TransductiveValueNetwork",
    "ValueNetwork",
    "load_teacher_weights",
    "weight_decay_groups",
]
