"""What a dry run says of memory can be counted by hand."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
import sharded_job
import tiny_job

from perceiver_jax.modalities.image import ConvEmbedding
from perceiver_jax.training import loop, parallel
from perceiver_jax.training.dry_run import compiled_bytes, dry_run
from perceiver_jax.training.job import make_job
from perceiver_jax.training.optimizers import Sgd
from perceiver_jax.training.schedules import Constant

pytestmark = pytest.mark.usefixtures('fast_compilation')


def test_compiled_bytes_are_those_counted_by_hand():
  count, rows, size = jax.device_count(), 300, 500

  def step(state, batch):
    # Products are not fused: the first has to lie somewhere.
    hidden = batch['x'] @ state['w']
    total = jnp.sum((hidden @ state['w']) ** 2)
    return state, {'total': total, 'hidden': hidden}

  def without_hidden(state, batch):
    state, results = step(state, batch)
    return state, {'total': results['total']}

  state = {
    'w': jax.ShapeDtypeStruct(
      (size, size), jnp.float32, sharding=parallel.replicated()
    )
  }
  batch = {'x': jax.ShapeDtypeStruct((count, rows, size), jnp.float32)}
  shown, hidden = (
    compiled_bytes(parallel.parallel_train_step(function), state, batch)
    for function in (step, without_hidden)
  )
  activations = 4 * rows * size
  for sizes in (shown, hidden):
    assert sizes['state and batch'] == 4 * size * size + activations
  # The new state lies where the old one did.
  assert 4 <= hidden['results in new memory'] < 100
  in_results = shown['results in new memory'] - hidden['results in new memory']
  assert activations <= in_results < activations + 100
  # Two products are there at a time, unless one of them is a result.
  assert hidden['activations and gradients'] == pytest.approx(
    2 * activations, rel=0.01
  )
  assert shown['activations and gradients'] == pytest.approx(
    activations, rel=0.01
  )


def _bytes(summary, name):
  """Returns the size that a line states, in bytes, and its last digit."""
  ((size, unit),) = re.findall(
    rf'^{name} +(?:about )?([\d,.]+) ([KM])iB', summary, re.MULTILINE
  )
  digit = 2**10 if unit == 'K' else 2**20
  return float(size.replace(',', '')) * digit, 0.1 * digit


def _assert_says(summary, name, num_bytes):
  size, digit = _bytes(summary, name)
  assert size == pytest.approx(num_bytes, abs=0.6 * digit)


@pytest.mark.parametrize(
  'shard', [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_memory_of_state_is_told_by_what_it_is_for(digits_dir, shard):
  config = sharded_job.sharded_config(digits_dir, shard=shard)
  config.model.inputs.embedding = ConvEmbedding(channels=64)
  config.model.num_latents, config.model.latent_channels = 32, 128
  job = make_job(config.copy())
  batch = sum(a.size * a.dtype.itemsize for a in job.device_batch.values())
  params, model_state = jax.eval_shape(
    lambda batch: job.task.init(jax.random.key(0), batch), job.device_batch
  )
  shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
  whole = 4 * sum(map(math.prod, shapes))
  # What an array needs on a device that may have a share of it.
  count = jax.device_count()
  shared = 4 * sum(
    math.prod(shape) // (count if any(n % count == 0 for n in shape) else 1)
    for shape in shapes
  )
  mean = shared if shard else whole
  summary = dry_run(config, compiles=True)
  _assert_says(summary, '- parameters', whole)
  # Two moments of Lamb, and two counts.
  _assert_says(summary, '- optimizer', 2 * mean + 8)
  _assert_says(summary, '- running mean of parameters', mean)
  statistics = sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(model_state)
  )
  assert statistics > 500
  _assert_says(summary, '- running statistics', statistics)
  state, _ = _bytes(summary, 'state per device')
  assert state > 2**19
  _assert_says(summary, '- state and batch', state + batch)
  parts = (
    'state and batch',
    'results in new memory',
    'activations and gradients',
    'program',
  )
  total, digit = _bytes(summary, 'compiled update per device')
  assert total == pytest.approx(
    sum(_bytes(summary, f'- {part}')[0] for part in parts), abs=4 * digit
  )


def test_dry_run_tells_where_a_run_goes_on_and_writes_nothing(
  digits_dir, tmp_path, caplog
):
  config = tiny_job.tiny_config(digits_dir, num_steps=2)
  workdir = tmp_path / 'run'
  assert re.search('^start +anew$', dry_run(config, workdir), re.MULTILINE)
  assert not workdir.exists()
  loop.train(config, workdir)
  before = {path: path.stat().st_mtime for path in workdir.rglob('*')}
  longer = tiny_job.tiny_config(digits_dir, num_steps=4)
  summary = dry_run(longer, workdir)
  assert re.search('^start +from step 2$', summary, re.MULTILINE)
  assert 'num_steps: saved 2, now 4' in caplog.text
  assert before == {path: path.stat().st_mtime for path in workdir.rglob('*')}
  assert not re.search('^start', dry_run(longer), re.MULTILINE)


@pytest.mark.parametrize(
  ('part', 'field', 'value', 'message'),
  [
    ('model', 'num_latents', 5, 'must be the one that .* was written with'),
    ('ema_decay', None, 0.5, 'must have the same running mean .* as this run'),
    (
      'optimizer',
      None,
      Sgd(schedule=Constant(learning_rate=1e-2)),
      'must have the same optimizer as this run',
    ),
  ],
)
def test_checkpoint_of_another_job_is_refused(
  digits_dir, tmp_path, part, field, value, message
):
  loop.train(tiny_job.tiny_config(digits_dir, num_steps=1), tmp_path)
  config = tiny_job.tiny_config(digits_dir)
  owner = config if field is None else getattr(config, part)
  setattr(owner, field or part, value)
  with pytest.raises(ValueError, match=message):
    dry_run(config, tmp_path)


def test_nothing_is_compiled_unless_it_is_asked_for(digits_dir, monkeypatch):
  monkeypatch.setattr(parallel, 'parallel_train_step', None)
  config = sharded_job.sharded_config(digits_dir, shard=False)
  summary = dry_run(config)
  assert 'saved activations per device' in summary
  assert 'compiled' not in summary
