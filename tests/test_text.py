"""Text: the tokenizer, and a language model's inputs, outputs and presets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import perceiver_jax
from perceiver_jax import presets
from perceiver_jax.modalities.image import ImageInput
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.modalities.text import BytesTokenizer, TextInput, TextOutput
from perceiver_jax.model import (
  AttentionDecoder,
  AverageDecoder,
  PerceiverConfig,
  Precision,
)
from perceiver_jax.nn.blocks import CrossAttendConfig, SelfAttendConfig
from perceiver_jax.weights.deepmind import from_deepmind, to_deepmind

_LENGTH = 9
_TOKENIZER = BytesTokenizer()


def _config(**fields):
  fields = {
    'inputs': TextInput(max_length=_LENGTH, embedding_channels=8),
    'outputs': TextOutput(max_length=_LENGTH),
    'decoder': AttentionDecoder(
      query_channels=8, cross_attend=CrossAttendConfig(use_query_residual=False)
    ),
  } | fields
  return PerceiverConfig(
    num_latents=4,
    latent_channels=12,
    num_blocks=1,
    num_self_attends_per_block=2,
    self_attend=SelfAttendConfig(num_heads=2),
    **fields,
  )


def _jitted(config):
  """Returns the functions of a model, compiled."""
  init, *functions = perceiver_jax.build(config)
  return perceiver_jax.Perceiver(init, *map(jax.jit, functions))


@functools.cache
def _model():
  perceiver = _jitted(_config())
  params = perceiver.init(jax.random.key(0), _ids())
  rng = np.random.default_rng(0)
  return perceiver, jax.tree.map(
    lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32),
    params,
  )


def _ids(seed=0):
  return np.random.default_rng(seed).integers(0, 262, (3, _LENGTH), np.int32)


def _apply(ids, *args, **kwargs):
  perceiver, params = _model()
  return np.asarray(perceiver.apply(params, None, ids, *args, **kwargs))


def _assert_close(actual, expected, tolerance=1e-5):
  scale = np.std(expected)
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def test_bytes_follow_six_special_tokens():
  assert _TOKENIZER.vocab_size == 262
  special = [getattr(_TOKENIZER, name) for name in ('PAD', 'BOS', 'EOS')]
  special += [getattr(_TOKENIZER, name) for name in ('MASK', 'CLS', 'SEP')]
  assert special == [0, 1, 2, 3, 4, 5]
  # The published example: the end of "... words are missing."
  ids = _TOKENIZER.encode(' missing.')
  assert ids.tolist() == [38, 115, 111, 121, 121, 111, 116, 109, 52]
  assert _TOKENIZER.encode('é').tolist() == [0xC3 + 6, 0xA9 + 6]
  assert _TOKENIZER.encode('').shape == (0,)


@pytest.mark.parametrize('text', ['', 'Hello', 'naïve 文字 🙂', '\x00\n'])
def test_text_survives_the_way_to_ids_and_back(text):
  assert _TOKENIZER.decode(_TOKENIZER.encode(text)) == text


def test_bytes_survive_the_way_to_ids_and_back():
  data = bytes(range(256))
  assert _TOKENIZER.decode_bytes(_TOKENIZER.encode(data)) == data


def test_special_tokens_and_broken_characters_are_no_text():
  ids = [_TOKENIZER.CLS, *_TOKENIZER.encode('a'), 0xC3 + 6, _TOKENIZER.PAD]
  assert _TOKENIZER.decode(ids) == 'a\ufffd'


@pytest.mark.parametrize('wrong', [-1, 262])
def test_ids_beyond_the_vocabulary_are_refused(wrong):
  with pytest.raises(ValueError, match=rf'in \[0, 262\), got \[{wrong}\]'):
    _TOKENIZER.decode([7, wrong])


def test_batch_pads_at_the_end_and_masks_it():
  ids, mask = _TOKENIZER.batch(['ab', b'', 'abc'])
  np.testing.assert_array_equal(ids[0], [103, 104, 0])
  np.testing.assert_array_equal(mask.sum(axis=1), [2, 0, 3])
  np.testing.assert_array_equal(ids != 0, mask)
  assert _TOKENIZER.batch(['ab'], length=5).ids.shape == (1, 5)
  assert _TOKENIZER.batch(['']).mask.tolist() == [[False]]


def test_batch_without_text_or_with_too_long_a_one_is_refused():
  for texts in ([], 'text'):
    with pytest.raises(ValueError, match='texts must be one text or more'):
      _TOKENIZER.batch(texts)
  with pytest.raises(ValueError, match='most 3 bytes, got 4 in text 1'):
    _TOKENIZER.batch(['abc', 'abcd'], length=3)


def test_logits_of_some_positions_are_those_among_all():
  outputs = _apply(_ids())
  assert outputs.shape == (3, _LENGTH, 262)
  positions = np.array([[0, 4], [8, 8], [2, 1]])
  some = _apply(_ids(), positions)
  expected = np.take_along_axis(outputs, positions[..., None], axis=1)
  _assert_close(some, expected)


def test_logits_share_the_embeddings_of_the_inputs():
  perceiver, params = _model()
  assert params['inputs']['embeddings'].shape == (262, 8)
  assert set(params['outputs']) == {'bias'}
  latents = np.random.default_rng(0).normal(size=(1, 4, 12)).astype(np.float32)
  logits = perceiver.decode(params, None, latents)
  doubled = params | {
    'inputs': params['inputs']
    | {'embeddings': params['inputs']['embeddings'].at[5].mul(2.0)}
  }
  bias = params['outputs']['bias']
  expected = np.array(logits - bias)
  expected[..., 5] *= 2.0
  _assert_close(perceiver.decode(doubled, None, latents) - bias, expected)


def test_padding_changes_nothing():
  ids, other = _ids(), _ids(seed=1)
  mask = np.arange(_LENGTH) < np.array([[9], [5], [1]])
  outputs = _apply(ids, input_mask=mask)
  changed = _apply(np.where(mask, ids, other), input_mask=mask)
  np.testing.assert_array_equal(outputs, changed)
  # Nor does its length.
  short = _apply(ids[1:2, :5])
  _assert_close(short[0], outputs[1])


def test_text_without_any_token_gives_finite_logits():
  mask = np.zeros((3, _LENGTH), bool)
  outputs = _apply(_ids(), input_mask=mask)
  assert np.all(np.isfinite(outputs))
  np.testing.assert_array_equal(outputs, _apply(_ids(1), input_mask=mask))


def test_order_of_tokens_matters():
  ids = _ids()
  assert np.abs(_apply(ids) - _apply(ids[:, ::-1])).max() > 0.01


def test_jit_equals_eager_and_items_are_independent():
  perceiver, params = _model()
  outputs = _apply(_ids())
  with jax.disable_jit():
    eager = perceiver.apply(params, None, _ids())
  _assert_close(eager, outputs)
  alone = [_apply(_ids()[i : i + 1])[0] for i in range(3)]
  _assert_close(np.stack(alone), outputs)


def test_every_parameter_has_a_finite_gradient():
  perceiver, params = _model()

  @jax.jit
  @jax.grad
  def gradient(params):
    return jnp.mean(perceiver.apply(params, None, _ids()) ** 2)

  for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
    assert np.all(np.isfinite(leaf)), path
    is_key_bias = path[0].key.endswith('/key') and path[-1].key == 'b'
    assert is_key_bias or np.any(leaf != 0), path


def test_bfloat16_stays_near_float32():
  _, params = _model()
  perceiver = _jitted(_config(precision=Precision.BFLOAT16))
  outputs = perceiver.apply(params, None, _ids())
  assert outputs.dtype == jnp.float32
  _assert_close(outputs, _apply(_ids()), tolerance=0.1)


@pytest.mark.parametrize('wrong', [-1, 262])
def test_id_that_does_not_exist_reads_nan(wrong):
  ids = _ids()
  ids[1, 3] = wrong
  outputs = _apply(ids)
  is_nan = np.isnan(outputs).all(axis=(1, 2))
  np.testing.assert_array_equal(is_nan, [False, True, False])


@pytest.mark.parametrize(
  ('ids', 'error', 'message'),
  [
    (np.zeros((1, 10), np.int32), ValueError, r'M from 1 to 9, got \[1, 10\]'),
    (np.zeros((1, 0), np.int32), ValueError, r'M from 1 to 9, got \[1, 0\]'),
    (np.zeros(3, np.int32), ValueError, r'shape \[B, M\].*got \[3\]'),
    (
      np.zeros((1, 3), np.float32),
      TypeError,
      'ids must be integers, got float32',
    ),
  ],
)
def test_ids_that_do_not_fit_are_refused(ids, error, message):
  with pytest.raises(error, match=message):
    _apply(ids)


def test_logits_of_an_empty_text_are_finite_and_those_of_any_padding():
  ids, mask = _TOKENIZER.batch(['', 'ab'])
  assert ids.shape == (2, 2)
  perceiver, params = _model()
  logits, other = (
    np.asarray(perceiver.apply(params, None, array, input_mask=mask))
    for array in (ids, ids + 7 * ~mask)
  )
  assert np.all(np.isfinite(logits))
  np.testing.assert_array_equal(logits, other)
  assert np.any(logits[0] != logits[1])


@pytest.mark.parametrize(
  ('queries', 'error', 'message'),
  [
    (np.zeros((2, 4), np.int32), ValueError, r'shape \[3, O\], got \[2, 4\]'),
    (np.zeros(3, np.int32), ValueError, r'shape \[3, O\], got \[3\]'),
    (np.zeros((3, 1), np.float32), TypeError, 'integers, got float32'),
  ],
)
def test_positions_that_do_not_fit_are_refused(queries, error, message):
  with pytest.raises(error, match=message):
    _apply(_ids(), queries)


def test_query_mask_of_another_shape_is_refused():
  with pytest.raises(ValueError, match=r'query_mask .* \[3, 9\], got \[3, 8\]'):
    _apply(_ids(), query_mask=np.ones((3, 8), bool))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'inputs': ImageInput()}, 'must be a TextInput.*got ImageInput'),
    (
      {'decoder': AttentionDecoder(query_channels=9)},
      'query_channels must be 8.*got 9',
    ),
    (
      {'decoder': AttentionDecoder(query_channels=None)},
      'must be a number for TextOutput, got None',
    ),
    ({'decoder': AverageDecoder()}, 'TextOutput must be an AttentionDecoder'),
    ({'inputs': TextInput(vocab_size=0)}, 'vocab_size must be at least 1'),
    ({'outputs': TextOutput(max_length=0)}, 'max_length must be at least 1'),
    ({'outputs': LabelOutput(head_channels=0)}, 'head_channels must be at'),
  ],
)
def test_config_that_does_not_fit_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    perceiver_jax.build(_config(**fields))


def test_head_of_a_label_is_tanh_between_two_layers():
  config = _config(outputs=LabelOutput(num_classes=2, head_channels=3))
  perceiver = _jitted(config)
  params = perceiver.init(jax.random.key(0), _ids())
  assert params['outputs/head']['w'].shape == (8, 3)
  params['outputs/head']['w'] *= 1e6
  params['outputs/logits']['w'] = np.array([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
  logits = np.asarray(perceiver.apply(params, None, _ids()))
  # A saturated tanh is a sign.
  signs = {
    (a + 2 * b + 3 * c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)
  }
  assert all(
    min(abs(value - sign) for sign in signs) < 1e-3 for value in logits[:, 0]
  )


def _full_size(config):
  init = perceiver_jax.build(config).init
  return jax.eval_shape(init, jax.random.key(0), config.inputs.example())


@pytest.mark.parametrize(
  ('name', 'length', 'num_params', 'billions'),
  [
    ('bytes', 2048, 201_108_230, 120.95),
    ('sentencepiece', 512, 223_155_456, 133.6),
    ('bytes_plus_plus', 2048, 425_607_430, 240.9),
    ('glue', 2048, 200_128_002, 111.0),
  ],
)
def test_preset_has_its_parameters_and_flops(
  name, length, num_params, billions
):
  config = getattr(presets, f'perceiver_io_language_{name}')()
  assert perceiver_jax.count_params(config) == num_params
  ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
  flops = perceiver_jax.count_flops(config, ids)
  assert flops == pytest.approx(billions * 1e9, rel=1e-3)


def test_multitask_queries_give_logits_of_each_task():
  config = presets.perceiver_io_language_glue(use_multitask_queries=True)
  ids = jax.ShapeDtypeStruct((2, 7), jnp.int32)
  apply = perceiver_jax.build(config).apply
  params = _full_size(config)
  outputs = jax.eval_shape(lambda p, x: apply(p, None, x), params, ids)
  shapes = {name: logits.shape for name, logits in outputs.items()}
  assert len(shapes) == 8
  assert (shapes['mnli'], shapes['stsb']) == ((2, 3), (2, 1))
  one = jax.eval_shape(
    lambda p, x: apply(p, None, x, {'cola': None}), params, ids
  )
  assert {name: logits.shape for name, logits in one.items()} == {
    'cola': (2, 2)
  }


def test_full_size_model_has_the_published_names_both_ways():
  config = presets.perceiver_io_language_bytes()
  params = _full_size(config)
  theirs, _ = jax.eval_shape(lambda p: to_deepmind(p, {}, config), params)
  assert sum(len(leaves) for leaves in theirs.values()) == 457
  assert theirs['embed']['embeddings'].shape == (262, 768)
  assert theirs['embedding_decoder']['bias'].shape == (262,)
  table = theirs['basic_decoder/~/trainable_position_encoding']['pos_embs']
  assert table.shape == (2048, 768)
  back, _ = jax.eval_shape(lambda p: from_deepmind(p, {}, config), theirs)
  assert jax.tree.map(jnp.shape, back) == jax.tree.map(jnp.shape, dict(params))


def test_array_that_the_language_model_lacks_is_refused():
  config = presets.perceiver_io_language_bytes()
  params = dict(_full_size(config)) | {'decoder_2': {'w': np.zeros(1)}}
  with pytest.raises(ValueError, match='decoder_2/w is left over'):
    jax.eval_shape(lambda p: to_deepmind(p, {}, config), params)
