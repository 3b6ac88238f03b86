"""Cross-attention to several blocks of tokens gives the numbers of plain."""

import dataclasses
import functools

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_problem import (
  Problem,
  assert_as_near_as_plain,
  assert_equal,
  plain,
)

from perceiver_jax import presets
from perceiver_jax.modalities.grid import FourierPositions
from perceiver_jax.nn.cross_attention import Algorithm, choice
from perceiver_jax.nn.cross_attention.absorbed import Absorbed
from perceiver_jax.nn.cross_attention.base import Dropout
from perceiver_jax.nn.cross_attention.chunked import Chunked
from perceiver_jax.nn.cross_attention.joined import Joined
from perceiver_jax.nn.cross_attention.plain import Plain
from perceiver_jax.nn.cross_attention.separable import Separable
from perceiver_jax.nn.tokens import AxisFeatures, JoinedTokens, Tokens

_COUNTS = (11, 1, 30)


class _Blocks(Problem):
  """A line of tokens, a token that is all constant, and a grid."""

  def make_tokens(self, axes, batch, bands):
    del axes
    fourier = FourierPositions(num_bands=bands)
    line = self.content(batch, 11, 5)
    grid = self.content(batch, 2, 3, 5, 2)
    blocks = (
      Tokens(line, fourier((11,)), self.normal(14)),
      Tokens(self.normal(batch, 1, 0), (), self.normal(26)),
      Tokens(grid, fourier((2, 3, 5)), self.normal(3)),
    )
    return JoinedTokens(blocks, ('line', 'label', 'grid'))


def _joined(*algorithms):
  def prepare(tokens):
    return Joined(
      tuple(f(b) for f, b in zip(algorithms, tokens.blocks, strict=True))
    )

  return prepare


def _absorbed(block):
  return Absorbed.prepare(block.dense())


# Neither 4 nor 7 divides the number of tokens.
def _chunked(block):
  return Chunked.prepare(block.dense(), 4)


def _separable(block):
  return Separable.prepare(block, 7)


_ALGORITHMS = {
  'absorbed': _joined(_absorbed, _absorbed, _absorbed),
  'chunked': _joined(_chunked, _chunked, _chunked),
  'separable': _joined(_chunked, _absorbed, _separable),
}
every_algorithm = pytest.mark.parametrize('name', _ALGORITHMS)


@every_algorithm
def test_outputs_and_gradients_equal_plain(name):
  problem = _Blocks()
  assert_equal(problem.gradients(plain), problem.gradients(_ALGORITHMS[name]))


def test_blocks_far_apart_equal_plain():
  # Logits reach some hundreds, so that a block has all of the weight;
  # float32 keeps them to about 2e-5.
  problem = _Blocks(scale=100.0)
  assert_equal(
    problem.gradients(plain), problem.gradients(_ALGORITHMS['separable']), 1e-3
  )


def _mask():
  """Hides a block, one after the other, and all tokens of the last example."""
  mask = np.random.default_rng(1).random((4, sum(_COUNTS))) > 0.4
  mask[:, 11] = True
  mask[0, :11] = False
  mask[1, 11] = False
  mask[2, 12:] = False
  mask[3] = False
  return mask


@pytest.mark.parametrize('prob', [0.0, 0.3], ids=['', 'dropout'])
@every_algorithm
def test_masked_blocks_and_dropout_equal_plain(name, prob):
  problem = _Blocks(batch=4)
  mask = _mask()
  dropout = Dropout(jax.random.key(0), prob) if prob else None
  gradients = functools.partial(
    problem.gradients, mask=jnp.asarray(mask), dropout=dropout
  )
  actual = gradients(_ALGORITHMS[name])
  assert_equal(gradients(plain), actual)
  output, query, _, tokens = actual
  assert np.all(np.asarray(output)[3] == 0)
  assert np.all(np.asarray(query)[3] == 0)
  grid = np.asarray(tokens.blocks[2].content).reshape(4, 30, 2)
  assert np.array_equal(np.any(grid != 0, axis=-1), mask[:, 12:])


def test_bfloat16_is_as_near_to_float32_as_plain():
  make_problem = functools.partial(_Blocks, heads=1, mean=12.0)
  assert_as_near_as_plain(make_problem, _ALGORITHMS['separable'])


@pytest.mark.slow
def test_jit_equals_eager():
  problem = _Blocks()
  prepare = _ALGORITHMS['separable']
  eager = problem.gradients(prepare, jit=False)
  assert_equal(eager, problem.gradients(prepare, quick=False))


@pytest.mark.slow
def test_transformations_do_not_change_numbers():
  problem = _Blocks()
  prepare = _ALGORITHMS['separable']
  expected = problem.gradients(prepare)

  def vmapped(read):
    def call(query, params, tokens):
      def one(query, *contents):
        blocks = [
          dataclasses.replace(block, content=content[None])
          for block, content in zip(tokens.blocks, contents, strict=True)
        ]
        example = dataclasses.replace(tokens, blocks=tuple(blocks))
        return read(query[None], params, example)[0]

      return jax.vmap(one)(query, *(block.content for block in tokens.blocks))

    return call

  assert_equal(expected, problem.gradients(prepare, wrap=vmapped))
  assert_equal(expected, problem.gradients(prepare, wrap=jax.checkpoint))


@every_algorithm
def test_weights_equal_plain(name):
  problem = _Blocks(batch=4)
  arguments = problem.query, problem.params, jnp.asarray(_mask())
  expected = plain(problem.tokens).weights(*arguments)
  prepared = _ALGORITHMS[name](problem.tokens)
  np.testing.assert_allclose(prepared.weights(*arguments), expected, atol=1e-5)


def test_joined_blocks_can_be_joined():
  problem = _Blocks()

  def nested(tokens):
    first, second, third = _ALGORITHMS['separable'](tokens).parts
    return Joined((Joined((first, second)), third))

  dropout = Dropout(jax.random.key(0), 0.3)
  assert_equal(
    problem.gradients(plain, dropout=dropout),
    problem.gradients(nested, dropout=dropout),
  )


def _kinds(config, inputs, algorithm=Algorithm.AUTO, **changes):
  """Returns how blocks would be read; None: all of them plainly."""
  attend = config.cross_attend.copy()
  for name, value in {'algorithm': algorithm, **changes}.items():
    setattr(attend, name, value)

  def prepare(inputs):
    tokens = config.inputs.make('inputs')(inputs, is_training=False)
    return attend.prepare(tokens, num_queries=config.num_latents)

  transformed = hk.transform(prepare)

  def run(rng, inputs):
    return transformed.apply(transformed.init(rng, inputs), None, inputs)

  shapes = {
    name: jax.ShapeDtypeStruct(shape, jnp.float32)
    for name, shape in inputs.items()
  }
  prepared = jax.eval_shape(run, jax.random.key(0), shapes)
  if isinstance(prepared, Plain):
    return None
  assert prepared.num_inputs == sum(part.num_inputs for part in prepared.parts)
  return tuple(type(part) for part in prepared.parts)


_AUDIOSET = {'audio': (1, 61_440, 1), 'video': (1, 32, 224, 224, 3)}
_KINETICS = {
  'audio': (1, 30_720, 1),
  'image': (1, 16, 224, 224, 3),
  'label': (1, 700),
}


def test_auto_chooses_for_each_block():
  raw = presets.perceiver_io_audioset_raw_video()
  assert _kinds(raw, _AUDIOSET) == (Absorbed, Separable)
  mel = presets.perceiver_io_audioset_mel_video()
  assert _kinds(mel, _AUDIOSET) == (Separable, Separable)
  kinetics = presets.perceiver_io_kinetics_autoencoding()
  expected = (Chunked, Separable, Absorbed)
  assert _kinds(kinetics, _KINETICS) == expected
  # A head has 64 of the 512 channels that absorbed queries would read for it.
  heads = {'num_heads': 8, 'qk_channels': 512}
  assert _kinds(raw, _AUDIOSET, **heads) is None
  # For this one video is cheap enough: 48 of 704 channels are read.
  heads = {'num_heads': 2, 'qk_channels': 512}
  assert _kinds(kinetics, _KINETICS, **heads) == expected


def test_an_algorithm_can_be_forced_on_all_blocks():
  config = presets.perceiver_io_kinetics_autoencoding()
  assert _kinds(config, _KINETICS, Algorithm.PLAIN) is None
  for algorithm, expected in [
    (Algorithm.ABSORBED, (Absorbed, Absorbed, Absorbed)),
    (Algorithm.CHUNKED, (Chunked, Chunked, Chunked)),
    (Algorithm.SEPARABLE, (Chunked, Separable, Absorbed)),
  ]:
    assert _kinds(config, _KINETICS, algorithm) == expected


def test_separable_is_refused_where_no_block_is_a_grid():
  line, label, _ = _Blocks().tokens.blocks
  sizes = {'num_heads': 1, 'qk_channels': 8, 'v_channels': 8}
  with pytest.raises(ValueError, match=r'not be SEPARABLE.*got \(11,\) and \('):
    choice.prepare(
      JoinedTokens((line, label), ('line', 'label')),
      Algorithm.SEPARABLE,
      num_queries=4,
      **sizes,
    )


def test_dense_tokens_have_constant_channels_last():
  content = np.arange(12.0, dtype=np.float32).reshape(1, 2, 3, 2)
  rows = AxisFeatures(np.array([[5.0], [6.0]], np.float32), 0)
  table = np.arange(6, dtype=np.float32)[:, None] + 20
  constant = np.array([8, 9], np.float32)
  tokens = Tokens(jnp.asarray(content), (rows, table), constant)
  assert tokens.num_channels == 6
  dense = np.asarray(tokens.dense())
  np.testing.assert_array_equal(dense[0, 0], [0, 1, 5, 20, 8, 9])
  np.testing.assert_array_equal(dense[0, 4], [8, 9, 6, 24, 8, 9])
