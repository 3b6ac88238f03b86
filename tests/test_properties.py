"""What holds for every preset, shrunk, and so for every modality."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_configs
from tiny_configs import PRESETS

import perceiver_jax
from perceiver_jax.modalities.base import InputConfig, OutputConfig
from perceiver_jax.modalities.multimodal import (
  MultimodalInput,
  MultimodalOutput,
)
from perceiver_jax.model import AttentionDecoder, PerceiverConfig, Precision
from perceiver_jax.nn.repeat import Remat

# Together they have every modality, see the first test. Without `slow`, what
# they hold is what other presets are made of.
_FAST = (
  'perceiver_io_audioset_mel_video',
  'perceiver_io_imagenet_conv',
  'perceiver_io_kinetics_autoencoding',
  'perceiver_io_language_bytes',
  'perceiver_io_optical_flow',
  'perceiver_io_starcraft',
  'perceiver_modelnet40',
)
every_preset = pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if name in _FAST else pytest.mark.slow)
    for name in PRESETS
  ],
)
# For functions that run once or twice, on a few numbers.
_FAST_COMPILATION = {'xla_backend_optimization_level': 0}


class _Model(NamedTuple):
  """What all properties of a model share.

  Attributes:
    config: of the model.
    params, state: random ones.
    inputs: a batch.
    mask: of the inputs.
    run: `_run(config)`, compiled.
    outputs: what it returns.
    grads: what it returns.
  """

  config: PerceiverConfig
  params: Any
  state: Any
  inputs: Any
  mask: np.ndarray
  run: Any
  outputs: Any
  grads: Any


def _forward(config):
  apply = perceiver_jax.build_with_state(config).apply

  def forward(params, state, inputs, mask):
    query_mask = mask if config.outputs.is_queried_by_inputs else None
    return apply(
      params, state, None, inputs, input_mask=mask, query_mask=query_mask
    )[0]

  return forward


def _run(config):
  """Returns a function of outputs and of gradients: parameters', inputs'."""
  forward = _forward(config)

  def run(params, state, inputs, mask):
    def loss(params, inputs):
      outputs = forward(params, state, inputs, mask)
      return sum(jnp.sum(a**2) for a in jax.tree.leaves(outputs)), outputs

    has_gradient = all(
      jnp.issubdtype(array.dtype, jnp.floating)
      for array in jax.tree.leaves(inputs)
    )
    argnums = (0, 1) if has_gradient else (0,)
    grads, outputs = jax.grad(loss, argnums, has_aux=True)(params, inputs)
    return outputs, grads

  return run


@functools.cache
def _model(name) -> _Model:
  config = PRESETS[name]
  inputs = tiny_configs.inputs_of(config.inputs)
  mask = tiny_configs.mask_of(config.inputs)
  init = perceiver_jax.build_with_state(config).init
  shapes = jax.eval_shape(init, jax.random.key(0), inputs)
  params, state = tiny_configs.random_like(shapes)
  run = jax.jit(_run(config), compiler_options=_FAST_COMPILATION)
  outputs, grads = run(params, state, inputs, mask)
  return _Model(config, params, state, inputs, mask, run, outputs, grads)


def _assert_close(actual, expected, tolerance=1e-4):
  leaves = jax.tree.leaves(expected)
  scale = np.std(np.concatenate([np.ravel(leaf) for leaf in leaves]))

  def check(path, actual, expected):
    np.testing.assert_allclose(
      actual, expected, rtol=0, atol=tolerance * scale, err_msg=str(path)
    )

  jax.tree_util.tree_map_with_path(check, actual, expected)


def _changed(name, is_changed):
  """Returns the inputs, with others where told."""
  model = _model(name)
  other = tiny_configs.inputs_of(model.config.inputs, seed=1)
  return jax.tree.map(np.where, is_changed, other, model.inputs)


def _parts(config):
  """Returns the modalities of a modality, or itself."""
  return getattr(config, 'modalities', {'': config}).values()


def test_presets_without_slow_have_every_modality():
  found = {
    type(part)
    for name in _FAST
    for side in (PRESETS[name].inputs, PRESETS[name].outputs)
    for part in _parts(side)
  }
  known = {
    subclass
    for base in (InputConfig, OutputConfig)
    for subclass in _leaves(base)
  }
  assert found | {MultimodalInput, MultimodalOutput} == known


def _leaves(base):
  subclasses = base.__subclasses__()
  return {base} if not subclasses else set().union(*map(_leaves, subclasses))


@every_preset
def test_jit_with_scanned_layers_equals_eager_with_unrolled_ones(name):
  model = _model(name)
  config = model.config.copy()
  config.unroll = True
  eager = _forward(config)(model.params, model.state, model.inputs, model.mask)
  _assert_close(model.outputs, eager)
  assert all(np.std(array) > 1e-3 for array in jax.tree.leaves(eager))


@every_preset
def test_gradients_are_finite_and_reach_every_parameter(name):
  model = _model(name)
  for path, grad in jax.tree_util.tree_leaves_with_path(model.grads):
    assert np.all(np.isfinite(grad)), path
  for path, grad in jax.tree_util.tree_leaves_with_path(model.grads[0]):
    module, parameter = path[0].key, path[1].key
    # Softmax does not see a shift of all keys. The autoencoder sees nothing of
    # the label in evaluation, and everything else.
    is_unused = (module.endswith('/key') and parameter == 'b') or (
      parameter in ('audio_mask_token', 'image_mask_token', 'label_padding')
    )
    assert is_unused or np.any(grad != 0), path


@every_preset
def test_masked_tokens_change_nothing_and_get_no_gradient(name):
  model = _model(name)
  hidden = tiny_configs.hidden_of(model.config.inputs)
  changed = _changed(name, hidden)
  outputs, _ = model.run(model.params, model.state, changed, model.mask)
  jax.tree.map(np.testing.assert_array_equal, outputs, model.outputs)
  if len(model.grads) == 2:
    jax.tree.map(
      lambda grad, hidden: np.testing.assert_array_equal(grad[hidden], 0.0),
      model.grads[1],
      hidden,
    )


@every_preset
def test_items_of_a_batch_are_independent(name):
  model = _model(name)
  is_second = jax.tree.map(
    lambda array: np.indices(array.shape)[0] == 1, model.inputs
  )
  outputs, _ = model.run(
    model.params, model.state, _changed(name, is_second), model.mask
  )

  def check(actual, expected):
    np.testing.assert_allclose(actual[0], expected[0], atol=1e-6)
    assert np.abs(actual[1] - expected[1]).max() > 1e-4

  jax.tree.map(check, outputs, model.outputs)


@every_preset
def test_vmap_over_examples_equals_a_batch(name):
  model = _model(name)
  forward = _forward(model.config)

  def single(inputs, mask):
    one = jax.tree.map(lambda array: array[None], (inputs, mask))
    outputs = forward(model.params, model.state, *one)
    return jax.tree.map(lambda array: array[0], outputs)

  vmapped = jax.jit(jax.vmap(single), compiler_options=_FAST_COMPILATION)
  _assert_close(vmapped(model.inputs, model.mask), model.outputs)


@pytest.mark.slow
@every_preset
def test_recomputed_layers_have_the_same_numbers(name):
  model = _model(name)
  config = model.config.copy()
  config.self_attend.remat = config.cross_attend.remat = Remat.ALL
  if isinstance(config.decoder, AttentionDecoder):
    config.decoder.cross_attend.remat = Remat.ALL
  arrays = model.params, model.state, model.inputs, model.mask
  traced = jax.jit(_run(config), compiler_options=_FAST_COMPILATION).trace(
    *arrays
  )
  assert 'remat' in str(traced.jaxpr)
  _assert_close(traced.lower().compile()(*arrays), model[-2:])


@every_preset
def test_bfloat16_inputs_are_computed_in_it_and_float32_returned(name):
  model = _model(name)

  def rounded(array, dtype):
    if array.dtype != np.float32:
      return array
    return array.astype(jnp.bfloat16).astype(dtype)

  def at(dtype):
    inputs = jax.tree.map(lambda array: rounded(array, dtype), model.inputs)
    return model.params, model.state, inputs, model.mask

  config = model.config.copy()
  config.precision = Precision.BFLOAT16
  forward = jax.jit(_forward(config), compiler_options=_FAST_COMPILATION)
  traced = forward.trace(*at(jnp.bfloat16))
  assert 'bf16[2,3,8]' in str(traced.jaxpr)
  outputs = traced.lower().compile()(*at(jnp.bfloat16))
  for array in jax.tree.leaves(outputs):
    assert array.dtype == jnp.float32
  expected, _ = model.run(*at(np.float32))
  _assert_close(outputs, expected, tolerance=0.1)
