"""The Perceiver family in JAX and Haiku, as pure functions."""

from perceiver_jax.attention_maps import AttentionMaps, attention_maps
from perceiver_jax.build import (
  Perceiver,
  PerceiverWithState,
  build,
  build_with_state,
)
from perceiver_jax.flops import count_flops, count_params
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.modules import Encoded
from perceiver_jax.summary import Summary, summary
from perceiver_jax.weights.native import (
  Pretrained,
  load_pretrained,
  save_pretrained,
)

__version__ = '0.1.0'

__all__ = [
  'AttentionMaps',
  'Encoded',
  'Perceiver',
  'PerceiverConfig',
  'PerceiverWithState',
  'Pretrained',
  'Summary',
  'attention_maps',
  'build',
  'build_with_state',
  'count_flops',
  'count_params',
  'load_pretrained',
  'save_pretrained',
  'summary',
]
