"""Several modalities at once; see also `test_properties`."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_tagging import augmented_config

import perceiver_jax
from perceiver_jax.modalities.audio import (
  AudioInput,
  AudioOutput,
  SpectrogramInput,
)
from perceiver_jax.modalities.entities import EntitiesInput
from perceiver_jax.modalities.grid import Combine, FourierPositions
from perceiver_jax.modalities.label import LabelInput, LabelOutput
from perceiver_jax.modalities.multimodal import (
  MultimodalInput,
  MultimodalOutput,
)
from perceiver_jax.modalities.points import PointsInput
from perceiver_jax.modalities.text import TextInput
from perceiver_jax.modalities.video import VideoInput, VideoOutput
from perceiver_jax.model import AttentionDecoder, PerceiverConfig

_BANDS = FourierPositions(num_bands=2)


def _multimodal(**changes):
  config = MultimodalInput(
    modalities={
      'video': VideoInput(patch_size=(1, 2, 2), positions=_BANDS),
      'audio': AudioInput(samples_per_patch=4, positions=_BANDS),
      'label': LabelInput(num_classes=3),
    },
    mask_probs={'audio': 0.25, 'label': 0.5},
    masked_in_evaluation=('label',),
  )
  for name, value in changes.items():
    setattr(config, name, value)
  return config


def _normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _inputs(seed=0):
  return {
    'audio': _normal(2, 12, 1, seed=seed),
    'label': _normal(2, 3, seed=seed),
    'video': _normal(2, 2, 4, 4, 3, seed=seed),
  }


_MODALITIES = {
  'video': (VideoInput(patch_size=(1, 2, 2), positions=_BANDS), 'video'),
  'audio': (AudioInput(samples_per_patch=4, positions=_BANDS), 'audio'),
  'multimodal': (_multimodal(), None),
  'points': (PointsInput(num_bands=4), _normal(2, 5, 3)),
  'entities': (
    EntitiesInput(num_features=4, embedding_channels=3),
    _normal(2, 5, 4),
  ),
  'spectrogram': (
    SpectrogramInput(
      window_size=64, hop_size=32, num_mels=2, min_hz=1e3, positions=_BANDS
    ),
    _normal(2, 128, 1),
  ),
}


def _config(inputs):
  return PerceiverConfig(
    inputs=inputs,
    outputs=LabelOutput(num_classes=5),
    num_latents=4,
    latent_channels=8,
    num_blocks=1,
    num_self_attends_per_block=1,
    decoder=AttentionDecoder(query_channels=6),
  )


def _drawn(perceiver, inputs):
  """Returns random parameters, without compiling their initialisation."""
  shapes = jax.eval_shape(perceiver.init, jax.random.key(0), inputs)
  rng = np.random.default_rng(0)
  return jax.tree.map(
    lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32), shapes
  )


@functools.cache
def _built(name):
  config, inputs = _MODALITIES[name]
  if inputs is None or isinstance(inputs, str):
    inputs = _inputs() if inputs is None else _inputs()[inputs]
  perceiver = perceiver_jax.build(_config(config))
  params = _drawn(perceiver, inputs)
  apply = jax.jit(perceiver.apply)
  return perceiver, apply, params, inputs, apply(params, None, inputs)


def test_every_gradient_is_finite_in_training():
  perceiver, _, params, inputs, _ = _built('multimodal')

  def loss(params, inputs):
    outputs = perceiver.apply(
      params, jax.random.key(0), inputs, is_training=True
    )
    return jnp.mean(outputs**2)

  grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, inputs)
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert np.all(np.isfinite(grad)), path
  for grad in jax.tree.leaves(grads[1]):
    assert np.any(grad != 0)


# The numbers of tokens, by hand.
@pytest.mark.parametrize(
  ('name', 'num_tokens'),
  [
    ('video', 8),
    ('audio', 3),
    ('multimodal', 12),
    ('points', 5),
    ('entities', 5),
    ('spectrogram', 8),
  ],
)
def test_without_any_token_outputs_are_finite_and_ignore_the_inputs(
  name, num_tokens
):
  _, apply, params, inputs, outputs = _built(name)
  mask = np.arange(2)[:, None] > np.zeros(num_tokens)
  masked = apply(params, None, inputs, input_mask=mask)
  other = jax.tree.map(lambda array: array + 1.0, inputs)
  other = apply(params, None, other, input_mask=mask)
  np.testing.assert_array_equal(masked[0], other[0])
  assert np.all(np.isfinite(masked))
  np.testing.assert_allclose(masked[1], outputs[1], atol=1e-5)
  assert np.any(masked[0] != outputs[0])


def test_jit_equals_eager_and_masks_are_one_or_a_dict():
  perceiver, apply, params, inputs, _ = _built('multimodal')
  mask = {
    'video': np.arange(8)[None] % 3 < np.array([[1], [2]]),
    'label': np.ones((2, 1), bool),
  }
  joined = np.concatenate(
    [np.ones((2, 3), bool), mask['label'], mask['video']], axis=1
  )
  outputs = apply(params, None, inputs, input_mask=joined)
  eager = perceiver.apply(params, None, inputs, input_mask=mask)
  np.testing.assert_allclose(eager, outputs, atol=1e-5)
  # Tokens that are masked change nothing.
  other = _inputs(seed=1)['video']
  patches = other.reshape(2, 2, 2, 2, 2, 2, 3).swapaxes(3, 4)
  hidden = ~mask['video'].reshape(2, 2, 2, 2, 1, 1, 1)
  own = inputs['video'].reshape(2, 2, 2, 2, 2, 2, 3).swapaxes(3, 4)
  video = np.where(hidden, patches, own).swapaxes(3, 4).reshape(other.shape)
  changed = {**inputs, 'video': video}
  np.testing.assert_array_equal(
    apply(params, None, changed, input_mask=joined), outputs
  )
  assert np.any(apply(params, None, changed) != apply(params, None, inputs))


def _tokens(config, inputs, rng=None):
  """Returns joined tokens, the same as one array, and parameters."""
  transformed = hk.transform(
    lambda inputs, is_training: config.make('inputs')(
      inputs, is_training=is_training
    )
  )
  params = transformed.init(jax.random.key(0), inputs, False)
  tokens = transformed.apply(params, rng, inputs, rng is not None)
  return tokens, np.asarray(tokens.dense()), params['inputs']


def test_tokens_stand_in_alphabetical_order_with_learned_channels():
  config = _multimodal(masked_in_evaluation=())
  tokens, dense, params = _tokens(config, _inputs())
  # A patch of video has 12 values and 15 positions; 4 channels are added.
  assert dense.shape == (2, 3 + 1 + 8, 31) and config.num_channels == 31
  assert tokens.counts == {'audio': 3, 'label': 1, 'video': 8}
  np.testing.assert_array_equal(
    dense[:, :3, :4], _inputs()['audio'].reshape(2, 3, 4)
  )
  for name, rows, own in [
    ('audio', slice(0, 3), 9),
    ('label', slice(3, 4), 3),
    ('video', slice(4, 12), 27),
  ]:
    padding = params[f'{name}_padding']
    assert padding.shape == (1, 31 - own)
    assert np.all(dense[:, rows, own:] == padding[0])
  # Patches of 2 frames of 2 x 2 stay on their grid, without what they share.
  assert tokens.blocks[2].content.shape == (2, 2, 2, 2, 12)


def test_several_modalities_can_be_one_of_several():
  config = MultimodalInput(
    modalities={'media': _multimodal(), 'points': PointsInput(num_bands=1)}
  )
  inputs = {'media': _inputs(), 'points': _normal(2, 3, 3)}
  tokens, dense, params = _tokens(config, inputs)
  assert tokens.counts == {'media': 12, 'points': 3}
  assert dense.shape == (2, 15, 35)
  np.testing.assert_array_equal(
    dense[:, :3, :4], _inputs()['audio'].reshape(2, 3, 4)
  )
  assert np.all(dense[:, :12, 31:] == params['media_padding'][0])


def test_label_is_always_masked_in_evaluation():
  tokens, dense, params = _tokens(_multimodal(), _inputs())
  assert tokens.blocks[1].content.shape == (2, 1, 0)
  assert np.all(dense[:, 3] == params['label_mask_token'][0])


def test_tokens_are_masked_one_by_one_in_training():
  inputs = {**_inputs(), 'audio': _normal(2, 4000, 1)}
  _, dense, params = _tokens(_multimodal(), inputs, jax.random.key(1))
  is_masked = np.all(dense[:, :1000] == params['audio_mask_token'][0], axis=-1)
  assert 0.2 < is_masked.mean() < 0.3
  assert np.any(is_masked[0] != is_masked[1])
  kept = dense[:, :1000, :4][~is_masked]
  samples = inputs['audio'].reshape(2, 1000, 4)[~is_masked]
  np.testing.assert_array_equal(kept, samples)


def test_modality_is_dropped_from_whole_examples_in_training_only():
  inputs = {
    'audio': _normal(200, 8, 1),
    'video': np.ones((200, 1, 2, 2, 3), np.float32),
  }
  config = MultimodalInput(
    modalities={
      'audio': AudioInput(samples_per_patch=4, positions=_BANDS),
      'video': VideoInput(patch_size=(1, 1, 1), positions=_BANDS),
    },
    drop_probs={'video': 0.3},
  )
  _, dense, _ = _tokens(config, inputs, jax.random.key(1))
  _, evaluated, _ = _tokens(config, inputs)
  colours = dense[:, 2:, :3].reshape(200, -1)
  is_dropped = np.all(colours == 0.0, axis=1)
  assert np.all(colours[~is_dropped] == 1.0)
  assert 0.2 < is_dropped.mean() < 0.4
  # Positions and learned channels stay, and so does all else.
  np.testing.assert_array_equal(dense[:, 2:, 3:], evaluated[:, 2:, 3:])
  np.testing.assert_array_equal(dense[:, :2], evaluated[:, :2])
  assert np.all(evaluated[:, 2:, :3] == 1.0)


def test_what_is_drawn_for_an_example_depends_on_its_own_key_alone():
  # SpecAugment, modalities that are dropped, tokens that are masked.
  perceiver = perceiver_jax.build(augmented_config().model)
  inputs = {'audio': _normal(5, 64, 1), 'video': _normal(5, 2, 4, 4, 3)}
  params = perceiver.init(jax.random.key(0), inputs)
  apply = jax.jit(functools.partial(perceiver.apply, is_training=True))
  rngs = jax.random.split(jax.random.key(1), 5)
  whole = apply(params, rngs, inputs)
  some = np.array([3, 0, 4])
  part = apply(
    params, rngs[some], jax.tree.map(lambda array: array[some], inputs)
  )
  np.testing.assert_allclose(part, whole[some], rtol=1e-5, atol=1e-6)
  # Each draws its own.
  same = jax.tree.map(lambda array: np.repeat(array[:1], 5, axis=0), inputs)
  # So they do with one key, old or new.
  for rng in (rngs, jax.random.key(1), jax.random.PRNGKey(1)):
    outputs = np.round(apply(params, rng, same), 5)
    assert len(np.unique(outputs, axis=0)) == 5


def test_positions_in_the_content_are_dropped_with_it():
  added = VideoInput(
    patch_size=(1, 2, 2),
    positions=_BANDS,
    position_projection=12,
    combine=Combine.ADD,
  )
  config = MultimodalInput(
    modalities={
      'added': added,
      'points': PointsInput(num_bands=1),
      'text': TextInput(vocab_size=9, max_length=4, embedding_channels=5),
    },
    drop_probs={'added': 1.0, 'points': 1.0, 'text': 1.0},
  )
  inputs = {
    'added': _normal(2, 1, 4, 4, 3),
    'points': _normal(2, 3, 3),
    'text': np.array([[6, 7], [8, 6]]),
  }
  _, dropped, _ = _tokens(config, inputs, jax.random.key(1))
  _, kept, _ = _tokens(config, inputs)
  for rows, own in [
    (slice(0, 4), 12),
    (slice(4, 7), 9),
    (slice(7, 9), 5),
  ]:
    assert np.all(dropped[:, rows, :own] == 0.0)
    assert np.all(np.any(kept[:, rows, :own] != 0.0, axis=-1))
    np.testing.assert_array_equal(dropped[:, rows, own:], kept[:, rows, own:])


def _outputs():
  return MultimodalOutput(
    modalities={
      'sound': AudioOutput(
        num_samples=12, samples_per_patch=4, positions=_BANDS
      ),
      'image': VideoOutput(size=(2, 2, 3), positions=_BANDS),
      'label': LabelOutput(num_classes=5),
      'scene': LabelOutput(num_classes=4),
    },
    query_channels={'scene': 7},
    projected_channels=10,
  )


@functools.cache
def _decoder():
  config = _config(_MODALITIES['video'][0])
  config.outputs = _outputs()
  config.decoder.query_channels = 18
  perceiver = perceiver_jax.build(config)
  params = _drawn(perceiver, _inputs()['video'])
  return perceiver, jax.jit(perceiver.decode), params


def test_outputs_are_a_dict_and_parts_are_those_of_the_whole():
  _, decode, params = _decoder()
  latents = _normal(2, 4, 8)
  whole = decode(params, None, latents)
  assert {name: array.shape for name, array in whole.items()} == {
    'image': (2, 2, 2, 3, 3),
    'label': (2, 5),
    'scene': (2, 4),
    'sound': (2, 12, 1),
  }
  queries = {'image': np.array([7, 0]), 'scene': None, 'sound': np.array([1])}
  part = decode(params, None, latents, queries)
  assert part.keys() == queries.keys()
  expected = {
    'image': whole['image'].reshape(2, -1, 3)[:, queries['image']],
    'scene': whole['scene'],
    'sound': whole['sound'][:, 4:8],
  }
  for name, array in expected.items():
    np.testing.assert_allclose(part[name], array, atol=1e-5)


def test_masks_of_queries_are_one_or_a_dict():
  _, decode, params = _decoder()
  latents = _normal(2, 4, 8)
  queries = {'image': np.array([7, 0, 3]), 'label': None, 'sound': None}
  image = np.array([[True, False, True], [False, True, True]])
  masks = {'image': image, 'sound': None}
  outputs = decode(params, None, latents, queries, query_mask=masks)
  # Alphabetical: 3 of the image, 1 label, 3 patches of sound.
  joined = np.concatenate([image, np.ones((2, 4), bool)], axis=1)
  same = decode(params, None, latents, queries, query_mask=joined)
  for name, array in outputs.items():
    np.testing.assert_array_equal(array, same[name])
  whole = decode(params, None, latents, queries)
  used = image[..., None] & np.ones(3, bool)
  np.testing.assert_allclose(outputs['image'][used], whole['image'][used])
  # What is not read does not depend on the latents.
  other = decode(params, None, latents + 1, queries, query_mask=masks)
  unused = outputs['image'][~used]
  np.testing.assert_array_equal(other['image'][~used], unused)
  assert np.all(np.abs(unused - whole['image'][~used]) > 1e-5)


@pytest.mark.parametrize(
  ('mask', 'message'),
  [
    ({'image': np.ones((2, 2), bool)}, r"\['image'\] .*\[2, 3\], got \[2, 2"),
    ({'scene': None}, r"of \['image', 'label'\], got \['scene'\]"),
    (np.ones((2, 5), bool), r'query_mask must .* \[2, 4\], got \[2, 5\]'),
    ({'image': np.ones((2, 3))}, r"\['image'\] must be boolean, got float64"),
  ],
)
def test_masks_of_queries_that_do_not_fit_are_refused(mask, message):
  perceiver, _, params = _decoder()
  queries = {'image': np.array([7, 0, 3]), 'label': None}
  with pytest.raises((ValueError, TypeError), match=message):
    perceiver.decode(params, None, _normal(2, 4, 8), queries, query_mask=mask)


def test_learned_queries_of_two_labels_are_two():
  _, _, params = _decoder()
  assert params['decoder/label']['query'].shape == (1, 16)
  assert params['decoder/scene']['query'].shape == (1, 7)
  paddings = {
    name.removesuffix('_padding'): array.shape[1]
    for name, array in params['decoder'].items()
  }
  assert paddings == {'image': 3, 'label': 2, 'scene': 11, 'sound': 13}


@pytest.mark.parametrize(
  ('names', 'found'),
  [
    (('audio', 'video'), r"\['audio', 'video'\]"),
    (('audio', 'label', 'smell', 'video'), r"\['audio', 'label', 'smell', "),
  ],
)
def test_inputs_must_have_exactly_the_modalities(names, found):
  perceiver, _, params, _, _ = _built('multimodal')
  inputs = dict.fromkeys(names, np.zeros((2, 4), np.float32)) | {
    name: array for name, array in _inputs().items() if name in names
  }
  message = (
    r"inputs must have exactly the modalities \['audio', 'label', 'video'\], "
    f'got {found}'
  )
  with pytest.raises(ValueError, match=message):
    perceiver.apply(params, None, inputs)


def test_inputs_that_are_no_dict_are_refused():
  perceiver, _, params, _, _ = _built('multimodal')
  with pytest.raises(ValueError, match='exactly the modalities.*got ndarray'):
    perceiver.apply(params, None, _inputs()['audio'])


@pytest.mark.parametrize(
  ('mask', 'message'),
  [
    ({'video': np.ones((2, 7), bool)}, r"\['video'\] .*\[2, 8\], got \[2, 7"),
    ({'smell': np.ones((2, 7), bool)}, r"must name modalities of .*\['smell'"),
    (np.ones((2, 11), bool), r'input_mask must .* \[2, 12\], got \[2, 11\]'),
  ],
)
def test_masks_of_a_wrong_shape_are_refused(mask, message):
  perceiver, _, params, inputs, _ = _built('multimodal')
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      lambda params: perceiver.encode(params, None, inputs, input_mask=mask),
      params,
    )


@pytest.mark.parametrize(
  ('queries', 'message'),
  [
    ({'smell': None}, r"queries must name modalities of .* got \['smell'\]"),
    ({}, 'queries must be a dict of the modalities that are wanted.*got {}'),
    (np.arange(3), 'queries must be a dict of the modalities'),
  ],
)
def test_queries_of_other_modalities_are_refused(queries, message):
  perceiver, _, params = _decoder()
  with pytest.raises(ValueError, match=message):
    perceiver.decode(params, None, _normal(2, 4, 8), queries)


def _with_outputs(num_channels, **changes):
  config = _config(_MODALITIES['video'][0])
  config.outputs = _outputs()
  config.decoder.query_channels = num_channels
  for name, value in changes.items():
    setattr(config.outputs, name, value)
  return config


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    (_multimodal(modalities={}), 'modalities must not be empty'),
    (
      _multimodal(modalities={'class': LabelInput()}),
      "identifiers and not 'class', got 'class'",
    ),
    (_multimodal(min_padding=-1), 'min_padding must be at least 0'),
    (_multimodal(mask_probs={'smell': 0.1}), r"mask_probs .*\['smell'\]"),
    (_multimodal(drop_probs={'video': 1.1}), r'drop_probs must be in \[0, 1\]'),
    (
      _multimodal(masked_in_evaluation=('video',)),
      r"masked_in_evaluation must name .*\['audio', 'label'\], got \['video'\]",
    ),
    (_with_outputs(14), "got 14, and 15 of 'image'"),
    (
      _with_outputs(18, query_channels={'smell': 3}),
      r"query_channels must name modalities of .* got \['smell'\]",
    ),
  ],
)
def test_config_of_modalities_that_do_not_fit_is_refused(config, message):
  with pytest.raises(ValueError, match=message):
    config.validate()


def test_config_survives_json():
  config = _with_outputs(18)
  config.inputs = _multimodal()
  config.validate()
  assert perceiver_jax.config.from_json(config.to_json()) == config
