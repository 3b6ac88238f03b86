"""How large a model is: its parameters, and the FLOPs of applying it."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import Jaxpr

from perceiver_jax.arrays import Params, State
from perceiver_jax.build import build_with_state
from perceiver_jax.model import AttentionDecoder, PerceiverConfig
from perceiver_jax.nn.cross_attention import Algorithm


def count_params(config: PerceiverConfig) -> int:
  """Counts the numbers in the parameters, without those of batch statistics."""
  params, _ = weight_shapes(config, config.inputs.example())
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def count_flops(
  config: PerceiverConfig, inputs: Any, queries: Any | None = None
) -> int:
  """Counts the FLOPs of applying a model once, as the papers count them.

  Matrix products and convolutions count, a multiply and an add separately;
  softmax, normalisation and activations do not. Counted is the published
  algorithm, whichever equivalent one the config would compute with, so that
  speeds of different algorithms can be compared. Nothing is computed.

  Args:
    config: describes the model.
    inputs: arrays or `jax.ShapeDtypeStruct`s of their shapes; with a batch of
      one, the FLOPs are those of an example.
    queries: raw output queries; None: all.

  Returns:
    FLOPs of one forward pass. Training takes about three times as many.

  Source: arXiv 2103.03206, appendix B; arXiv 2107.14795, appendix D.
  """
  config = as_published(config)
  params, state = weight_shapes(config, inputs)
  apply = build_with_state(config).apply
  return flops_of(apply, params, state, None, inputs, queries)


def flops_of(function: Callable[..., Any], *args: Any) -> int:
  """Counts the FLOPs of a function of arrays, or of their shapes."""
  return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def as_published(config: PerceiverConfig) -> PerceiverConfig:
  """Returns the config with the published algorithm, quick to trace."""
  config = config.copy()
  config.unroll = False
  # Cross-attends that share weights would project the inputs only once.
  config.share_cross_attends = False
  config.cross_attend.algorithm = Algorithm.PLAIN
  if isinstance(config.decoder, AttentionDecoder):
    config.decoder.cross_attend.algorithm = Algorithm.PLAIN
    config.decoder.decode_at_once()
  return config


def weight_shapes(config: PerceiverConfig, inputs: Any) -> tuple[Params, State]:
  """Returns the shapes of parameters and state."""
  init = build_with_state(config).init
  return jax.eval_shape(init, jax.random.key(0), inputs)


def _flops(jaxpr: Jaxpr) -> int:
  return sum(_flops_of_equation(equation) for equation in jaxpr.eqns)


def _flops_of_equation(equation: Any) -> int:
  """Counts one primitive, with all that it calls."""
  primitive, params = equation.primitive.name, equation.params
  if primitive == 'dot_general':
    return _flops_of_dot(equation)
  if primitive == 'conv_general_dilated':
    return _flops_of_convolution(equation)
  inner = [_flops(jaxpr) for jaxpr in _jaxprs_in(tuple(params.values()))]
  if not any(inner):
    return 0
  if primitive == 'scan':
    return params['length'] * sum(inner)
  if primitive == 'cond':
    return max(inner)
  if primitive in ('while', 'pallas_call'):
    raise ValueError(
      'the model must be made of loops of known length for its FLOPs to be '
      f'counted, got a {primitive} with matrix products in it.'
    )
  return sum(inner)


def _jaxprs_in(value: Any) -> Iterator[Jaxpr]:
  if isinstance(value, tuple | list):
    for item in value:
      yield from _jaxprs_in(item)
    return
  # In JAX 0.10 a closed jaxpr holds a jaxpr; in 0.12 it is one.
  value = getattr(value, 'jaxpr', value)
  if isinstance(value, Jaxpr):
    yield value


def _flops_of_dot(equation: Any) -> int:
  (contracted, _), _ = equation.params['dimension_numbers']
  left = equation.invars[0].aval.shape
  outputs = math.prod(equation.outvars[0].aval.shape)
  return 2 * outputs * math.prod(left[axis] for axis in contracted)


def _flops_of_convolution(equation: Any) -> int:
  """Counts every tap of the kernel, also where it lies on padding."""
  kernel = equation.invars[1].aval.shape
  out_channels = kernel[equation.params['dimension_numbers'].rhs_spec[0]]
  outputs = math.prod(equation.outvars[0].aval.shape)
  return 2 * outputs * math.prod(kernel) // out_channels
