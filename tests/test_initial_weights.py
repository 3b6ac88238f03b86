"""Runs that start from weights, and evaluation of weights from files."""

import functools

import jax
import numpy as np
import pytest
import tiny_job

from perceiver_jax.modalities.image import LearnedPositions
from perceiver_jax.model import Precision
from perceiver_jax.nn.blocks import Gelu
from perceiver_jax.nn.cross_attention import Algorithm
from perceiver_jax.nn.repeat import Remat
from perceiver_jax.training import initial_weights, loop
from perceiver_jax.training.dry_run import dry_run
from perceiver_jax.training.initial_weights import InitialWeights, load_weights
from perceiver_jax.training.state import TrainState, evaluation_state
from perceiver_jax.weights import flat
from perceiver_jax.weights.deepmind import save_deepmind
from perceiver_jax.weights.native import Pretrained, save_pretrained

pytestmark = pytest.mark.usefixtures('fast_compilation')


@pytest.fixture(scope='module')
def run(digits_dir, tmp_path_factory):
  """A finished run: its directory and its metrics."""
  workdir = tmp_path_factory.mktemp('run')
  config = tiny_job.tiny_config(digits_dir, num_steps=2)
  return workdir, loop.train(config, workdir)


def _random(config) -> Pretrained:
  """Returns a model with random weights, drawn without compiling."""
  rng = np.random.default_rng(0)
  arrays = {
    key: rng.normal(size=leaf.shape).astype(leaf.dtype)
    for key, leaf in flat.expected(config).items()
  }
  return Pretrained(config, *flat.unflatten(arrays))


def _state(weights) -> TrainState:
  params = jax.tree.map(jax.numpy.zeros_like, weights.params)
  return evaluation_state(params, weights.state)


def test_checkpoint_gives_its_weights(run, digits_dir):
  config = tiny_job.tiny_config(digits_dir)
  weights = load_weights(run[0], config.model)
  assert weights.config == config.model
  flat.check(
    'weights',
    flat.flatten(weights.params, weights.state),
    flat.expected(config.model),
  )


def test_files_are_evaluated_like_the_run_they_come_from(
  run, digits_dir, tmp_path
):
  workdir, metrics = run
  config = tiny_job.tiny_config(digits_dir)
  weights = load_weights(workdir, config.model)
  save_pretrained(tmp_path / 'ours.safetensors', *weights)
  save_deepmind(tmp_path / 'theirs.pystate', *weights)
  for name in ('ours.safetensors', 'theirs.pystate'):
    evaluated = loop.evaluate(config.copy(), tmp_path / name)
    assert evaluated == metrics | {'step': 0}, name


def test_file_of_another_model_is_refused(run, digits_dir, tmp_path):
  config = tiny_job.tiny_config(digits_dir)
  weights = load_weights(run[0], config.model)
  save_pretrained(tmp_path / 'w.safetensors', *weights)
  config.model.num_latents = 5
  with pytest.raises(ValueError, match='num_latents: saved 4, now 5'):
    loop.evaluate(config, tmp_path / 'w.safetensors')


def test_run_starts_from_weights_but_for_its_new_modules(
  run, digits_dir, tmp_path, monkeypatch
):
  workdir, _ = run
  config = tiny_job.tiny_config(digits_dir, num_steps=1)
  config.model.outputs.num_classes = 12
  config.initial_weights = InitialWeights(
    path=str(workdir), new_modules=('outputs',)
  )
  config.optimizer.schedule.learning_rate = 0.0
  loop.train(config, tmp_path)
  old = load_weights(workdir, config.model).params
  new = load_weights(tmp_path, config.model).params
  assert new['outputs/logits']['w'].shape == (8, 12)
  for module in old:
    if not module.startswith('outputs'):
      jax.tree.map(np.testing.assert_array_equal, new[module], old[module])


def test_learned_positions_follow_the_size_of_the_image(digits_dir, tmp_path):
  config = tiny_job.tiny_config(digits_dir).model
  config.inputs.positions = LearnedPositions(grid=(8, 8), num_channels=2)
  weights = _random(config)
  rows, columns = np.meshgrid(np.arange(8.0), np.arange(8.0), indexing='ij')
  ramps = np.stack([rows, columns], axis=-1).reshape(64, 2)
  weights.params['inputs']['positions'] = ramps.astype(np.float32)
  path = tmp_path / 'w.safetensors'
  save_pretrained(path, *weights)
  larger = config.copy()
  larger.inputs.positions.grid = (16, 16)
  loaded = InitialWeights(path=str(path)).load_into(
    _state(_random(larger)), larger
  )
  table = np.asarray(loaded.params['inputs']['positions']).reshape(16, 16, 2)
  # Pixel centres of the fine grid, in units of the coarse one.
  expected = (np.arange(16) + 0.5) / 2 - 0.5
  inside = slice(4, 12)
  np.testing.assert_allclose(table[inside, 8, 0], expected[inside], atol=1e-5)
  np.testing.assert_allclose(table[8, inside, 1], expected[inside], atol=1e-5)


def _load(path, config, changes, new_modules=()):
  """Loads random weights of a model into one with a few other fields."""
  save_pretrained(path, *_random(config))
  other = config.copy()
  for name, value in changes.items():
    *parents, name = name.split('.')
    setattr(functools.reduce(getattr, parents, other), name, value)
  weights = InitialWeights(path=str(path), new_modules=new_modules)
  return weights.load_into(_state(_random(other)), other)


@pytest.mark.parametrize(
  ('changes', 'new_modules', 'message'),
  [
    ({'num_latents': 5}, (), 'num_latents: saved 4, now 5'),
    ({'num_latents': 5}, ('encoder',), 'num_latents: saved 4, now 5'),
    # The same arrays, but another function of an image.
    ({'self_attend.num_heads': 2}, (), 'self_attend.num_heads: saved 1, now 2'),
    ({'self_attend.gelu': Gelu.EXACT}, (), r'self_attend.gelu.*: saved'),
    (
      {'inputs.permutation_seed': 3},
      ('outputs',),
      'inputs.permutation_seed: saved None, now 3',
    ),
    (
      {'cross_attend.use_query_residual': False},
      (),
      'cross_attend.use_query_residual: saved True, now False',
    ),
    (
      {'outputs.num_classes': 7},
      (),
      r'outputs/logits/w must be .* \(8, 7\), got',
    ),
    ({}, ('head',), r"beginnings of paths of the model, got \('head',\)"),
  ],
)
def test_weights_that_do_not_fit_are_refused(
  digits_dir, tmp_path, changes, new_modules, message
):
  config = tiny_job.tiny_config(digits_dir).model
  with pytest.raises(ValueError, match=message):
    _load(tmp_path / 'w.safetensors', config, changes, new_modules)


def test_weights_fit_a_model_that_computes_the_same_in_another_way(
  digits_dir, tmp_path
):
  changes = {
    'precision': Precision.BFLOAT16,
    'unroll': True,
    'self_attend.remat': Remat.ALL,
    'self_attend.dropout_prob': 0.1,
    'cross_attend.algorithm': Algorithm.PLAIN,
    'latent_init_scale': 1.0,
    'outputs.num_classes': 7,
  }
  config = tiny_job.tiny_config(digits_dir).model
  state = _load(tmp_path / 'w.safetensors', config, changes, ('outputs',))
  np.testing.assert_array_equal(
    state.params['encoder']['latents'],
    _random(config).params['encoder']['latents'],
  )


@pytest.mark.parametrize('runs', [dry_run, loop.train])
@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('nowhere', 'nowhere.*does not exist'),
    ('published.pystate', 'published.pystate.*; convert it first'),
  ],
)
def test_path_without_weights_is_refused_before_anything_is_computed(
  digits_dir, tmp_path, monkeypatch, runs, name, message
):
  monkeypatch.setattr(loop, 'first_state', None)
  (tmp_path / 'published.pystate').write_bytes(b'a pickle')
  config = tiny_job.tiny_config(digits_dir)
  config.initial_weights = InitialWeights(path=str(tmp_path / name))
  where = [] if runs is dry_run else [tmp_path / 'run']
  with pytest.raises(ValueError, match=message):
    runs(config, *where)


def test_workdir_without_a_checkpoint_has_no_weights(digits_dir, tmp_path):
  config = tiny_job.tiny_config(digits_dir)
  with pytest.raises(ValueError, match='must hold a checkpoint, got'):
    initial_weights.load_weights(tmp_path, config.model)


def test_evaluation_and_a_run_that_goes_on_need_no_initial_weights(
  run, digits_dir
):
  workdir, metrics = run
  config = tiny_job.tiny_config(digits_dir, num_steps=2)
  config.initial_weights = InitialWeights(path='no/longer/there')
  assert loop.train(config.copy(), workdir) == metrics
  # Nor is there anything to train on in ImageNet-V2, say.
  config.data.train_split = 'no_such_split'
  assert loop.evaluate(config, workdir) == metrics


def test_place_of_the_report_is_tried_before_the_evaluation(
  run, digits_dir, monkeypatch
):
  monkeypatch.setattr(loop, 'make_evaluator', None)
  with pytest.raises(OSError, match='got /dev/null/report: Not a directory'):
    loop.evaluate(tiny_job.tiny_config(digits_dir), run[0], '/dev/null/report')


def test_run_is_evaluated_in_other_ways_to_compute_the_same(run, digits_dir):
  workdir, metrics = run
  config = tiny_job.tiny_config(digits_dir)
  config.model.precision = Precision.BFLOAT16
  config.model.self_attend.remat = Remat.ALL
  evaluated = loop.evaluate(config, workdir)
  assert evaluated['loss'] != metrics['loss']
  assert evaluated['loss'] == pytest.approx(metrics['loss'], rel=0.02)
