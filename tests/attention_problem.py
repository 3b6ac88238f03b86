"""Arguments and gradients of cross-attention, to compare its algorithms."""

import jax
import jax.numpy as jnp
import numpy as np

from perceiver_jax.modalities.image import FourierPositions
from perceiver_jax.nn.cross_attention.base import InputParameters
from perceiver_jax.nn.cross_attention.plain import Plain
from perceiver_jax.nn.tokens import Tokens


def plain(tokens):
  return Plain(tokens.dense())


def _same(function):
  return function


class Problem:
  """Random arguments of cross-attention, and all gradients."""

  def __init__(
    self,
    axes=(6, 5),
    *,
    heads=2,
    scale=1.0,
    dtype=jnp.float32,
    batch=2,
    bands=3,
    mean=0.0,
  ):
    self.rng = np.random.default_rng(0)
    self.dtype = dtype
    self.mean = mean
    self.tokens = self.make_tokens(axes, batch, bands)
    channels, qk, v = self.tokens.num_channels, heads * 4, heads * 3
    self.query = scale * self.normal(batch, 7, heads, 4)
    self.params = InputParameters(
      1 + self.normal(channels) / 4,
      self.normal(channels),
      *(self.normal(channels, qk) / channels**0.5, self.normal(qk)),
      *(self.normal(channels, v) / channels**0.5, self.normal(v)),
    )
    self.cotangent = self.normal(batch, 7, v)

  def make_tokens(self, axes, batch, bands):
    table = self.normal(np.prod(axes), 2)
    positions = (*FourierPositions(num_bands=bands)(axes), table)
    return Tokens(self.content(batch, *axes, 3), positions, self.normal(4))

  def normal(self, *shape):
    return jnp.asarray(self.rng.normal(size=shape), self.dtype)

  def content(self, *shape):
    return self.normal(*shape) + self.mean

  def read(self, prepare, query, params, tokens, mask=None, dropout=None):
    prepared = prepare(tokens)
    return prepared.read(query, params, mask, dropout)

  def gradients(
    self, prepare, mask=None, dropout=None, wrap=_same, jit=True, quick=True
  ):
    """Returns the output, and gradients of query, parameters and tokens."""

    def read(query, params, tokens):
      return self.read(prepare, query, params, tokens, mask, dropout)

    arguments = (self.query, self.params, self.tokens)
    arguments = jax.tree.map(jnp.asarray, arguments)

    def gradients(*arguments):
      output, pull = jax.vjp(wrap(read), *arguments)
      return output, *pull(self.cotangent)

    if jit:
      # Small problems: compiling takes nearly all the time.
      options = {'xla_backend_optimization_level': 0} if quick else None
      gradients = jax.jit(gradients, compiler_options=options)
    output, query, params, tokens = gradients(*arguments)
    # The exact gradient of a key bias is zero.
    return output, query, params._replace(key_b=0), tokens


def assert_equal(expected, actual, tolerance=2e-5):
  """Holds arrays equal relative to the largest number of each."""
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(expected),
    jax.tree.leaves(actual),
    strict=True,
  )
  for (path, a), b in pairs:
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    error = np.max(np.abs(a - b), initial=0)
    limit = tolerance * np.max(np.abs(a), initial=0.1)
    assert error <= limit, f'{jax.tree_util.keystr(path)}: {error} > {limit}'


def assert_as_near_as_plain(make_problem, prepare):
  """Holds bfloat16 as near to float32 as the plain algorithm's is.

  That is for the output and for each gradient.

  Args:
    make_problem: makes the problem in a dtype.
    prepare: the algorithm.
  """
  exact = make_problem(dtype=jnp.float32).gradients(plain)
  rounded = make_problem(dtype=jnp.bfloat16)

  def errors(prepare):
    actual = rounded.gradients(prepare)
    assert actual[0].dtype == jnp.bfloat16
    return jax.tree.map(_relative_error, exact, actual)

  expected = jax.tree_util.tree_leaves_with_path(errors(plain))
  actual = jax.tree.leaves(errors(prepare))
  for (path, limit), error in zip(expected, actual, strict=True):
    limit = max(2 * limit, 0.02)
    assert error <= limit, f'{jax.tree_util.keystr(path)}: {error} > {limit}'


def _relative_error(expected, actual):
  expected, actual = (np.asarray(x, np.float64) for x in (expected, actual))
  size = np.linalg.norm(expected)
  return np.linalg.norm(actual - expected) / size if size else 0.0
