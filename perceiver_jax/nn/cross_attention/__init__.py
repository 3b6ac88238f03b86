"""Cross-attention: exact algorithms, the choice among them, the module."""

from perceiver_jax.nn.cross_attention.base import (
  PreparedInputs as PreparedInputs,
)
from perceiver_jax.nn.cross_attention.choice import Algorithm as Algorithm
from perceiver_jax.nn.cross_attention.choice import prepare as prepare
from perceiver_jax.nn.cross_attention.module import (
  CrossAttention as CrossAttention,
)
from perceiver_jax.nn.cross_attention.module import InputNorm as InputNorm
from perceiver_jax.nn.cross_attention.queries import (
  QueryAlgorithm as QueryAlgorithm,
)
from perceiver_jax.nn.cross_attention.queries import choose as choose
from perceiver_jax.nn.cross_attention.queries import (
  prepare_queries as prepare_queries,
)
from perceiver_jax.nn.cross_attention.transposed import (
  AbsorbedKeys as AbsorbedKeys,
)
