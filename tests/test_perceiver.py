"""What holds for every model: a table of configs, and properties of each."""

import functools
import inspect

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_configs import random_like

import perceiver_jax
from perceiver_jax.build import Apply, Decode, Encode, Init, Process
from perceiver_jax.modalities.image import (
  Combine,
  Conv1x1Embedding,
  ConvEmbedding,
  FourierPositions,
  ImageInput,
  LearnedPositions,
  PatchEmbedding,
)
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import (
  AttentionDecoder,
  AverageDecoder,
  PerceiverConfig,
  Placement,
  Precision,
)
from perceiver_jax.nn.blocks import CrossAttendConfig, Gelu, SelfAttendConfig
from perceiver_jax.nn.repeat import Remat

SIZE = 8


def _config(**changes):
  inputs = ImageInput(positions=FourierPositions(num_bands=3))
  config = PerceiverConfig(
    inputs=inputs,
    outputs=LabelOutput(num_classes=5),
    num_latents=6,
    latent_channels=16,
    num_blocks=2,
    num_self_attends_per_block=2,
    self_attend=SelfAttendConfig(num_heads=4),
    decoder=AttentionDecoder(query_channels=12),
  )
  for path, value in changes.items():
    *parents, name = path.split('__')
    setattr(functools.reduce(getattr, parents, config), name, value)
  return config


CONFIGS = {
  'io': {},
  'io_without_query_residual': {
    'decoder__cross_attend': CrossAttendConfig(use_query_residual=False)
  },
  'io_unshared': {'share_blocks': False},
  'v1': {'num_cross_attends': 2, 'decoder': AverageDecoder()},
  'v1_with_longer_groups': {'num_cross_attends': 2, 'num_blocks': 6},
  'v1_at_start': {
    'num_cross_attends': 3,
    'cross_attend_placement': Placement.START,
  },
  'once_at_start': {'cross_attend_placement': Placement.START},
  'v1_unshared': {
    'num_cross_attends': 3,
    'num_blocks': 3,
    'share_cross_attends': False,
    'share_blocks': False,
  },
  'v1_unshared_at_start': {
    'num_cross_attends': 3,
    'cross_attend_placement': Placement.START,
    'share_cross_attends': False,
    'share_blocks': False,
  },
  'heads_and_widths': {
    'cross_attend': CrossAttendConfig(
      num_heads=2, qk_channels=8, v_channels=10, widening_factor=3
    ),
    'self_attend': SelfAttendConfig(num_heads=2, qk_channels=4, v_channels=6),
  },
  'exact_gelu': {
    'cross_attend__gelu': Gelu.EXACT,
    'self_attend__gelu': Gelu.EXACT,
  },
  'dropout': {
    'cross_attend__dropout_prob': 0.2,
    'cross_attend__attention_dropout_prob': 0.2,
    'self_attend__dropout_prob': 0.2,
    'self_attend__attention_dropout_prob': 0.2,
    'decoder__cross_attend__dropout_prob': 0.2,
  },
  'conv1x1_learned_positions': {
    'inputs': ImageInput(
      embedding=Conv1x1Embedding(channels=4),
      positions=LearnedPositions(grid=(SIZE, SIZE), num_channels=6),
      position_projection=7,
    )
  },
  'added_positions': {
    'inputs': ImageInput(
      positions=FourierPositions(num_bands=3),
      position_projection=3,
      combine=Combine.ADD,
    )
  },
  'patches': {
    'inputs': ImageInput(
      embedding=PatchEmbedding(patch_size=(2, 4), channels=9),
      positions=FourierPositions(num_bands=3),
    )
  },
  'unordered_patches': {
    'inputs': ImageInput(
      embedding=PatchEmbedding(patch_size=(4, 4)), positions=None
    )
  },
  'conv_stem': {
    'inputs': ImageInput(
      embedding=ConvEmbedding(channels=5),
      positions=FourierPositions(num_bands=3),
    )
  },
  'permuted': {'inputs__permutation_seed': 1},
}
every_config = pytest.mark.parametrize('name', CONFIGS)
# Where a property costs many seconds of compilation.
some_configs = pytest.mark.parametrize(
  'name',
  [
    'v1',
    *(
      pytest.param(name, marks=pytest.mark.slow)
      for name in ('v1_unshared_at_start', 'dropout', 'conv_stem')
    ),
  ],
)


def _images(batch_size=3, seed=0, size=SIZE):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(batch_size, size, size, 3)).astype(np.float32)


@functools.cache
def _built(name):
  """Returns functions, compiled, and random parameters and state."""
  perceiver = perceiver_jax.build_with_state(_config(**CONFIGS[name]))
  shapes = jax.eval_shape(perceiver.init, jax.random.key(0), _images())
  params, state = random_like(shapes)
  functions = (
    jax.jit(function, static_argnames='is_training')
    for function in perceiver[1:]
  )
  return type(perceiver)(perceiver.init, *functions), params, state


def _apply(name, images, **kwargs):
  perceiver, params, state = _built(name)
  return perceiver.apply(params, state, None, images, **kwargs)[0]


def _assert_close(actual, expected, tolerance=1e-5):
  scale = np.std(expected) + 1e-6
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


@every_config
def test_apply_is_decode_of_process_of_encode(name):
  perceiver, params, state = _built(name)

  @jax.jit
  def composed(images):
    encoded, _ = perceiver.encode(params, state, None, images)
    latents, _ = perceiver.process(params, state, None, encoded)
    return perceiver.decode(params, state, None, latents)[0]

  _assert_close(composed(_images()), _apply(name, _images()))


@every_config
def test_items_of_a_batch_are_independent(name):
  images = _images()
  alone = [_apply(name, images[i : i + 1])[0] for i in range(len(images))]
  _assert_close(np.stack(alone), _apply(name, images))


@some_configs
def test_unrolled_layers_have_the_same_numbers_and_parameters(name):
  perceiver, params, state = _built(name)
  unrolled = perceiver_jax.build_with_state(
    _config(**CONFIGS[name], unroll=True)
  )
  shapes = jax.eval_shape(unrolled.init, jax.random.key(1), _images())
  assert jax.tree.structure(shapes) == jax.tree.structure((params, state))
  training = {'is_training': True}
  for rng, kwargs in [(None, {}), (jax.random.key(2), training)]:
    apply = jax.jit(unrolled.apply, static_argnames='is_training')
    outputs, _ = apply(params, state, rng, _images(), **kwargs)
    scanned, _ = perceiver.apply(params, state, rng, _images(), **kwargs)
    _assert_close(outputs, scanned)


@some_configs
def test_gradients_are_finite_and_the_same_with_remat(name):
  _, params, state = _built(name)

  def gradient(remat):
    config = _config(**CONFIGS[name])
    config.cross_attend.remat = config.self_attend.remat = remat
    perceiver = perceiver_jax.build_with_state(config)

    def loss(params):
      outputs, _ = perceiver.apply(
        params, state, jax.random.key(0), _images(), is_training=True
      )
      return jnp.mean(outputs**2)

    is_remat = 'remat' in str(jax.make_jaxpr(loss)(params))
    assert is_remat == (remat is not Remat.NONE)
    return jax.jit(jax.grad(loss))(params)

  grads = gradient(Remat.NONE)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.all(np.isfinite(grad)), path
    # Softmax does not see a shift of all keys.
    is_key_bias = 'key' in str(path[0]) and path[-1].key == 'b'
    assert is_key_bias or np.any(grad != 0), path
  for remat in (Remat.CHEAP, Remat.ALL):
    for actual, expected in zip(
      *map(jax.tree.leaves, (gradient(remat), grads)), strict=True
    ):
      np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_more_is_recomputed_the_less_is_stored():
  def stored(remat):
    config = _config(num_latents=64, num_blocks=8)
    config.self_attend.remat = remat
    perceiver = perceiver_jax.build(config)
    shapes = jax.eval_shape(perceiver.init, jax.random.key(0), _images())

    def loss(params):
      return jnp.mean(perceiver.apply(params, None, _images()) ** 2)

    step = jax.jit(jax.grad(loss)).lower(shapes).compile()
    return step.memory_analysis().temp_size_in_bytes

  nothing, cheap, all_of_it = map(stored, Remat)
  assert all_of_it < cheap < nothing


@every_config
def test_bfloat16_is_computed_in_and_float32_returned(name):
  _, params, state = _built(name)
  perceiver = perceiver_jax.build_with_state(
    _config(**CONFIGS[name], precision=Precision.BFLOAT16)
  )
  encoded, _ = jax.eval_shape(perceiver.encode, params, state, None, _images())
  assert encoded.latents.dtype == jnp.bfloat16
  outputs, _ = jax.jit(perceiver.apply)(params, state, None, _images())
  assert outputs.dtype == jnp.float32
  _assert_close(outputs, _apply(name, _images()), tolerance=0.1)
  initial, _ = jax.eval_shape(perceiver.init, jax.random.key(0), _images())
  assert {leaf.dtype.name for leaf in jax.tree.leaves(initial)} == {'float32'}


def test_bfloat16_logits_are_not_rounded_to_it():
  _, params, state = _built('io')
  perceiver = perceiver_jax.build_with_state(
    _config(**CONFIGS['io'], precision=Precision.BFLOAT16)
  )
  logits, _ = jax.jit(perceiver.apply)(params, state, None, _images())
  rounded = logits.astype(jnp.bfloat16).astype(jnp.float32)
  assert np.mean(logits != rounded) > 0.9


def test_every_cross_attend_sees_the_same_float32_tables(monkeypatch):
  perceiver = perceiver_jax.build(
    _config(**CONFIGS['v1'], precision=Precision.BFLOAT16)
  )
  _, params, _ = _built('v1')
  seen, prepare = [], CrossAttendConfig.prepare

  def recorded(self, inputs, **kwargs):
    seen.append(inputs.positions)
    return prepare(self, inputs, **kwargs)

  monkeypatch.setattr(CrossAttendConfig, 'prepare', recorded)
  # Traced only: constants keep their values.
  jax.eval_shape(lambda p: perceiver.apply(p, None, _images()), params)
  first, again = seen
  assert [entry.axis for entry in first] == [entry.axis for entry in again]
  for one, other in zip(first, again, strict=True):
    assert one.features.dtype == other.features.dtype == np.float32
    np.testing.assert_array_equal(one.features, other.features)


@pytest.mark.parametrize(
  'name', ['io', 'v1', 'added_positions', 'heads_and_widths']
)
def test_masked_tokens_change_nothing_and_get_no_gradient(name):
  perceiver, params, state = _built(name)
  mask = np.random.default_rng(1).random((3, SIZE, SIZE)) < 0.5

  @jax.jit
  def apply(images):
    return perceiver.apply(
      params, state, None, images, input_mask=mask.reshape(3, -1)
    )[0]

  images = _images()
  other = np.where(mask[..., None], images, 100.0 * _images(seed=1))
  np.testing.assert_array_equal(apply(images), apply(other))
  grads = jax.jit(jax.grad(lambda images: apply(images).sum()))(images)
  assert not np.any(grads[~mask])
  assert np.any(grads[mask])
  assert np.any(apply(images) != _apply(name, images))


@pytest.mark.parametrize('name', ['io', 'v1', 'heads_and_widths'])
def test_without_any_token_outputs_are_finite_and_ignore_the_inputs(name):
  mask = np.ones((3, SIZE * SIZE), bool)
  mask[1] = False
  outputs = _apply(name, _images(), input_mask=mask)
  other = _apply(name, _images(seed=1), input_mask=mask)
  assert np.all(np.isfinite(outputs))
  np.testing.assert_array_equal(outputs[1], other[1])
  _assert_close(outputs[0], _apply(name, _images())[0])


def test_masked_query_reads_nothing():
  perceiver, params, state = _built('io_without_query_residual')
  latents = np.random.default_rng(0).normal(size=(2, 6, 16)).astype(np.float32)
  mask = np.array([[True], [False]])
  outputs, _ = perceiver.decode(params, state, None, latents, query_mask=mask)
  other, _ = perceiver.decode(params, state, None, -latents, query_mask=mask)
  assert np.any(outputs[0] != other[0])
  np.testing.assert_array_equal(outputs[1], other[1])


def test_initial_values_do_not_depend_on_how_layers_run():
  params = [
    perceiver_jax.build(_config(unroll=unroll)).init(
      jax.random.key(0), _images()
    )
    for unroll in (False, True)
  ]
  jax.tree.map(np.testing.assert_array_equal, *params)
  leaves = jax.tree_util.tree_leaves_with_path(params[0])
  nonzero = {path[-1].key for path, leaf in leaves if np.any(leaf != 0)}
  assert nonzero == {'w', 'scale', 'latents', 'query'}


def test_permuted_pixels_change_a_perceiver_by_rounding_only():
  _, params, state = _built('v1')
  permuted = perceiver_jax.build_with_state(
    _config(**CONFIGS['v1'], inputs__permutation_seed=3)
  )
  outputs, _ = jax.jit(permuted.apply)(params, state, None, _images())
  _assert_close(outputs, _apply('v1', _images()))


def test_permuted_pixels_change_patches():
  _, params, state = _built('patches')
  permuted = perceiver_jax.build_with_state(
    _config(**CONFIGS['patches'], inputs__permutation_seed=3)
  )
  outputs, _ = jax.jit(permuted.apply)(params, state, None, _images())
  assert np.abs(outputs - _apply('patches', _images())).max() > 0.1


def test_fourier_positions_follow_the_size_of_the_image():
  images = _images(size=12)
  outputs = _apply('v1', images)
  assert outputs.shape == (3, 5)
  # Without positions the order of pixels would not matter.
  assert np.abs(outputs - _apply('v1', images[:, ::-1])).max() > 0.01


def test_dropout_differs_by_rng_and_not_in_evaluation():
  perceiver, params, state = _built('dropout')
  first, second, again = (
    perceiver.apply(
      params, state, jax.random.key(seed), _images(), is_training=True
    )[0]
    for seed in (0, 1, 0)
  )
  assert np.any(first != second)
  np.testing.assert_array_equal(first, again)
  with_rng, _ = perceiver.apply(params, state, jax.random.key(0), _images())
  np.testing.assert_array_equal(with_rng, _apply('dropout', _images()))


def test_keys_of_examples_serve_every_verb():
  perceiver, params, state = _built('dropout')
  images = _images()
  rngs = jax.random.split(jax.random.key(0), len(images))
  outputs, _ = perceiver.apply(params, state, rngs, images, is_training=True)
  of_verbs = jax.vmap(lambda rng: jax.random.split(rng, 3), out_axes=1)(rngs)
  verbs = (perceiver.encode, perceiver.process, perceiver.decode)
  result = images
  for verb, keys in zip(verbs, of_verbs, strict=True):
    result, _ = verb(params, state, keys, result, is_training=True)
  np.testing.assert_array_equal(result, outputs)
  others, _ = perceiver.apply(
    params, state, rngs[::-1], images, is_training=True
  )
  assert np.any(others != outputs)


@pytest.mark.parametrize(
  ('placement', 'order'), [('INTERLEAVED', 'bbcbbcbb'), ('START', 'ccbbbbbb')]
)
@pytest.mark.parametrize('unroll', [False, True])
def test_blocks_run_in_the_order_of_their_placement(placement, order, unroll):
  config = _config(
    num_cross_attends=3,
    num_blocks=6,
    num_self_attends_per_block=1,
    share_cross_attends=False,
    share_blocks=False,
    cross_attend_placement=Placement[placement],
    unroll=unroll,
  )
  perceiver = perceiver_jax.build(config)
  shapes = jax.eval_shape(perceiver.init, jax.random.key(0), _images())
  params = random_like(shapes)
  encoded = perceiver.encode(params, None, _images())
  actual = perceiver.process(params, None, encoded)

  def read(latents):
    inputs = config.cross_attend.prepare(
      encoded.tokens, num_queries=config.num_latents
    )
    return config.cross_attend(latents, inputs, is_training=False)

  def transform(latents):
    return config.self_attend(latents, is_training=False)

  latents = encoded.latents
  for place, kind in enumerate(order):
    function, name = {
      'b': (transform, 'processor/block_{}_self_attend_0/'),
      'c': (read, 'processor/cross_attend_{}/'),
    }[kind]
    prefix = name.format(order[:place].count(kind))
    own = {
      module.removeprefix(prefix): leaves
      for module, leaves in params.items()
      if module.startswith(prefix)
    }
    latents = hk.transform(function).apply(own, None, latents)
  np.testing.assert_allclose(actual, latents, rtol=1e-3, atol=1e-3)


def test_first_cross_attend_has_its_own_weights():
  perceiver, params, _ = _built('v1')
  del perceiver
  names = {module.split('/')[0] for module in params if 'cross' in module}
  assert names == {'encoder', 'processor'}
  query = 'cross_attend/attention/query'
  assert np.any(
    params[f'encoder/{query}']['w'] != params[f'processor/{query}']['w']
  )


@pytest.mark.parametrize(
  ('name', 'num_cross_attends', 'num_self_attends'),
  [
    ('io', 1, 2),
    ('io_unshared', 1, 4),
    ('v1', 2, 2),
    ('v1_unshared', 3, 6),
    ('v1_unshared_at_start', 3, 4),
  ],
)
def test_sharing_decides_how_many_sets_of_weights_there_are(
  name, num_cross_attends, num_self_attends
):
  _, params, _ = _built(name)
  queries = [module for module in params if module.endswith('/query')]
  layers = [query for query in queries if 'self_attend' in query]
  crosses = [
    query
    for query in queries
    if 'cross_attend' in query and not query.startswith('decoder')
  ]
  assert (len(crosses), len(layers)) == (num_cross_attends, num_self_attends)


def test_encoded_carries_tokens_only_if_they_are_read_again():
  for name, is_kept in [('io', False), ('v1', True)]:
    perceiver, params, state = _built(name)
    mask = np.ones((3, SIZE * SIZE), bool)
    encoded, _ = perceiver.encode(
      params, state, None, _images(), input_mask=mask
    )
    assert (encoded.tokens is not None) == is_kept
    assert (encoded.mask is not None) == is_kept


def test_batch_norm_state_changes_in_training_only():
  perceiver, params, state = _built('conv_stem')
  _, same = perceiver.apply(params, state, None, _images())
  jax.tree.map(np.testing.assert_array_equal, same, state)
  _, changed = perceiver.apply(
    params, state, jax.random.key(0), _images(), is_training=True
  )
  averages = [
    np.abs(changed[name]['average'] - state[name]['average']).max()
    for name in state
  ]
  assert min(averages) > 0


def test_synchronised_batch_norm_uses_statistics_of_all_devices():
  whole, params, state = _built('conv_stem')
  images = _images(batch_size=4)
  training = {'is_training': True}
  expected, _ = whole.apply(
    params, state, jax.random.key(0), images, **training
  )

  def on_two_devices(is_synchronised):
    config = _config(**CONFIGS['conv_stem'])
    config.inputs.embedding.sync_batch_norm = is_synchronised
    perceiver = perceiver_jax.build_with_state(config)

    def apply(images):
      rng = jax.random.key(0)
      return perceiver.apply(params, state, rng, images, **training)[0]

    parallel = jax.jit(jax.vmap(apply, axis_name='devices'))
    shards = images.reshape(2, 2, *images.shape[1:])
    return parallel(shards).reshape(4, -1)

  _assert_close(on_two_devices(True), expected)
  assert np.abs(on_two_devices(False) - expected).max() > 1e-3


def test_functions_tell_their_contract():
  contracts = (Init, Apply, Encode, Process, Decode)
  perceiver = perceiver_jax.build(_config(**CONFIGS['io']))
  for function, contract in zip(perceiver, contracts, strict=True):
    assert function.__name__ == contract.__name__.lower()
    assert function.__doc__ == contract.__call__.__doc__
    signature = inspect.signature(contract.__call__)
    names = ['self', *inspect.signature(function).parameters]
    assert names == list(signature.parameters)
  with pytest.raises(TypeError, match="missing .* 'inputs'"):
    perceiver.apply({}, None)
  with_state = perceiver_jax.build_with_state(_config(**CONFIGS['conv_stem']))
  names = list(inspect.signature(with_state.apply).parameters)
  assert names[:4] == ['params', 'state', 'rng', 'inputs']
  assert list(inspect.signature(with_state.init).parameters) == [
    'rng',
    'inputs',
  ]


def test_functions_work_in_a_larger_haiku_network():
  perceiver = perceiver_jax.build(_config(**CONFIGS['io']))

  def network(images):
    init = hk.lift(perceiver.init, name='perceiver')
    params = init(hk.next_rng_key() if hk.running_init() else None, images)
    return hk.Linear(2)(perceiver.apply(params, None, images))

  transformed = hk.transform(network)
  shapes = jax.eval_shape(transformed.init, jax.random.key(0), _images())
  params = random_like(shapes)
  own = {
    name.removeprefix('perceiver/'): leaves
    for name, leaves in params.items()
    if name.startswith('perceiver/')
  }
  read = _built('io')[0].apply(own, {}, None, _images())[0]
  expected = read @ params['linear']['w'] + params['linear']['b']
  actual = jax.jit(transformed.apply)(params, None, _images())
  _assert_close(actual, expected)


def test_functions_export_checkpoint_and_pmap():
  perceiver, params, state = _built('v1')
  images = _images(batch_size=2)

  def apply(params, images):
    return perceiver.apply(params, state, None, images)[0]

  expected = apply(params, images)
  exported = jax.export.export(jax.jit(apply))(params, images)
  _assert_close(exported.call(params, images), expected)
  _assert_close(jax.jit(jax.checkpoint(apply))(params, images), expected)
  shards = jnp.stack([images] * jax.local_device_count())
  pmapped = jax.pmap(apply, in_axes=(None, 0))(params, shards)
  _assert_close(pmapped[-1], expected)


def test_compile_input_is_small_whatever_the_depth():
  def jaxpr_lines(num_blocks, **changes):
    config = _config(num_blocks=num_blocks, **changes)
    perceiver = perceiver_jax.build(config)
    params = jax.eval_shape(perceiver.init, jax.random.key(0), _images())
    jaxpr = jax.make_jaxpr(lambda p: perceiver.apply(p, None, _images()))(
      params
    )
    return str(jaxpr).count('dot_general')

  # Traced only: nothing here is compiled.
  assert jaxpr_lines(2) == jaxpr_lines(16)
  layers = 'num_self_attends_per_block'
  assert jaxpr_lines(1, **{layers: 2}) == jaxpr_lines(1, **{layers: 9})
  assert jaxpr_lines(2, share_blocks=False) == jaxpr_lines(
    16, share_blocks=False
  )
  assert jaxpr_lines(2, unroll=True) < jaxpr_lines(16, unroll=True)


def test_config_given_to_build_is_not_frozen_or_followed():
  config = _config()
  perceiver = perceiver_jax.build(config)
  config.outputs.num_classes = 7
  params = jax.eval_shape(perceiver.init, jax.random.key(0), _images())
  outputs = jax.eval_shape(perceiver.apply, params, None, _images())
  assert outputs.shape == (3, 5)
