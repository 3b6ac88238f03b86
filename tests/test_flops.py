import jax
import jax.numpy as jnp
import pytest

import perceiver_jax
from perceiver_jax import flops
from perceiver_jax.modalities.image import FourierPositions, ImageInput
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import PerceiverConfig
from perceiver_jax.nn.cross_attention import Algorithm

_SQUARE = jax.ShapeDtypeStruct((8, 8), jnp.float32)
_PRODUCT = 2 * 8**3


def _count(function, *args):
  return flops._flops(jax.make_jaxpr(function)(*args).jaxpr)


def _tiny():
  return PerceiverConfig(
    inputs=ImageInput(positions=FourierPositions(num_bands=2)),
    outputs=LabelOutput(num_classes=3),
    num_latents=4,
    latent_channels=8,
    num_blocks=4,
    num_cross_attends=2,
    num_self_attends_per_block=3,
  )


def test_loops_count_once_a_step():
  def loop(x):
    return jax.lax.scan(lambda y, _: (y @ x, None), x, length=5)[0]

  assert _count(loop, _SQUARE) == 5 * _PRODUCT


def test_calls_are_looked_into():
  @jax.custom_vjp
  def product(x):
    return jax.jit(jax.checkpoint(lambda y: y @ y))(x)

  product.defvjp(lambda x: (product(x), x), lambda x, g: (g @ x,))
  assert _count(product, _SQUARE) == _PRODUCT


def test_branches_count_as_the_dearest_one():
  def branch(x):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x @ x @ x)

  assert _count(branch, _SQUARE) == 2 * _PRODUCT


def test_loop_of_unknown_length_is_refused():
  def loop(x):
    return jax.lax.while_loop(lambda y: y[0, 0] > 0, lambda y: y @ x, x)

  with pytest.raises(ValueError, match='loops of known length.*got a while'):
    _count(loop, _SQUARE)


def test_grouped_convolution_counts_its_own_inputs_only():
  images = jax.ShapeDtypeStruct((1, 10, 10, 4), jnp.float32)
  kernel = jax.ShapeDtypeStruct((3, 3, 2, 6), jnp.float32)

  def convolve(images, kernel):
    return jax.lax.conv_general_dilated(
      images,
      kernel,
      (1, 1),
      'VALID',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=2,
    )

  assert _count(convolve, images, kernel) == 2 * 8 * 8 * 6 * 3 * 3 * 2


@pytest.mark.parametrize('algorithm', Algorithm)
def test_flops_are_those_of_the_published_algorithm(algorithm):
  images = jnp.zeros((1, 8, 8, 3))
  config = _tiny()
  config.cross_attend.algorithm = Algorithm.PLAIN
  published = perceiver_jax.count_flops(config, images)
  config.cross_attend.algorithm = algorithm
  assert perceiver_jax.count_flops(config, images) == published


def test_flops_grow_with_the_batch_and_not_with_unrolling():
  config = _tiny()
  one = perceiver_jax.count_flops(config, jnp.zeros((1, 8, 8, 3)))
  config.unroll = True
  two = perceiver_jax.count_flops(config, jnp.zeros((2, 8, 8, 3)))
  assert two == 2 * one


def test_parameters_counted_are_those_initialised():
  config = _tiny()
  init = perceiver_jax.build(config).init
  params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((2, 8, 8, 3)))
  expected = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert perceiver_jax.count_params(config) == expected
