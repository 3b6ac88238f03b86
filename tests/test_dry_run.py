"""What a dry run says of memory can be counted by hand."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
import sharded_job

from perceiver_jax.training import parallel
from perceiver_jax.training.dry_run import compiled_bytes, dry_run
from perceiver_jax.training.job import abstract_state, make_job

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
    assert sizes['arguments'] == 4 * size * size + activations
  # The new state lies where the old one did.
  assert 4 <= hidden['results in new memory'] < 100
  in_results = shown['results in new memory'] - hidden['results in new memory']
  assert activations <= in_results < activations + 100
  # Two products are there at a time, unless one of them is a result.
  assert hidden['temporaries'] == pytest.approx(2 * activations, rel=0.01)
  assert shown['temporaries'] == pytest.approx(activations, rel=0.01)


def _line(summary, name):
  (size,) = re.findall(rf'^{name} +([\d,.]+) MiB', summary, re.MULTILINE)
  return float(size.replace(',', ''))


@pytest.mark.parametrize(
  'shard', [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_arguments_of_an_update_are_the_state_and_the_batch(digits_dir, shard):
  config = sharded_job.sharded_config(digits_dir, shard=shard)
  config.model.num_latents, config.model.latent_channels = 32, 128
  job = make_job(config.copy())
  batch = sum(a.size * a.dtype.itemsize for a in job.device_batch.values())
  state = sum(
    leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    for leaf in jax.tree.leaves(abstract_state(job))
  )
  summary = dry_run(config, compiles=True)
  assert _line(summary, '- arguments') == pytest.approx(
    (state + batch) / 2**20, abs=0.06
  )
  assert _line(summary, '- arguments') > 0.5
  parts = ('arguments', 'results in new memory', 'temporaries', 'program')
  assert _line(summary, 'compiled update per device') == pytest.approx(
    sum(_line(summary, f'- {part}') for part in parts), abs=0.3
  )


def test_nothing_is_compiled_unless_it_is_asked_for(digits_dir, monkeypatch):
  monkeypatch.setattr(parallel, 'parallel_train_step', None)
  config = sharded_job.sharded_config(digits_dir, shard=False)
  summary = dry_run(config)
  assert 'saved activations per device' in summary
  assert 'compiled' not in summary
