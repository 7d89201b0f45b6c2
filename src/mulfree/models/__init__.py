"""Vision networks by name, each with any operator in place of its convolutions.

`families` build networks from `torch.nn.Conv2d`; `placement` replaces their layers by layers of an
operator.
"""

from __future__ import annotations

from mulfree.models.checkpoint import load_model as load_model
from mulfree.models.checkpoint import save_weights as save_weights
from mulfree.models.depth_dynamic import DepthDynamicNetwork as DepthDynamicNetwork
from mulfree.models.depth_dynamic import depth_dynamic as depth_dynamic
from mulfree.models.depth_dynamic import shallower as shallower
from mulfree.models.images import ImageSpec as ImageSpec
from mulfree.models.placement import ConversionWarning as ConversionWarning
from mulfree.models.placement import convert as convert
from mulfree.models.published import load_published as load_published
from mulfree.models.registry import ModelConfig as ModelConfig
from mulfree.models.registry import ModelOptions as ModelOptions
from mulfree.models.registry import config_of as config_of
from mulfree.models.registry import create_model as create_model
from mulfree.models.registry import image_size as image_size
from mulfree.models.registry import input_size as input_size
from mulfree.models.registry import list_models as list_models
from mulfree.models.registry import model_options as model_options
from mulfree.models.registry import register_model as register_model
from mulfree.models.registry import set_images as set_images
from mulfree.models.scaling import ScaledModel as ScaledModel
from mulfree.models.scaling import is_scalable as is_scalable
from mulfree.models.scaling import scale as scale
