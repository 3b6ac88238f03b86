import json
import math
import time

import jax.numpy as jnp
import numpy as np
import pytest
from event_files import events

from perceiver_jax.training.metrics import MetricWriter, read_metrics


def _write(workdir, steps, **kwargs):
  with MetricWriter(workdir, **kwargs) as writer:
    for step in steps:
      writer.write(step, 'train', {'loss': step / 8})


def _text(workdir):
  return (workdir / 'metrics.jsonl').read_text()


def test_a_line_is_step_and_split_and_plain_floats(tmp_path):
  with MetricWriter(tmp_path) as writer:
    metrics = {'loss': jnp.float32(0.5), 'top_1_accuracy': np.float64(1)}
    writer.write(3, 'test', metrics)
  assert _text(tmp_path) == (
    '{"step": 3, "split": "test", "loss": 0.5, "top_1_accuracy": 1.0}\n'
  )


def test_a_line_can_be_read_while_the_run_goes_on(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer.write(1, 'train', {'loss': 2.0})
    expected = [{'step': 1, 'split': 'train', 'loss': 2.0}]
    assert read_metrics(tmp_path / 'metrics.jsonl') == expected


def test_numbers_that_json_lacks_come_back(tmp_path):
  with MetricWriter(tmp_path) as writer:
    metrics = {'a': math.nan, 'b': math.inf, 'c': -math.inf}
    writer.write(1, 'train', metrics)

  def refuse(constant):
    raise AssertionError(f'{constant} is not JSON')

  line = json.loads(_text(tmp_path), parse_constant=refuse)
  assert line['a'] == 'NaN'
  (read,) = read_metrics(tmp_path / 'metrics.jsonl')
  assert math.isnan(read['a'])
  assert (read['b'], read['c']) == (math.inf, -math.inf)
  _write(tmp_path, [2], resume_step=1)
  assert json.loads(_text(tmp_path).splitlines()[0])['c'] == '-Infinity'


def test_a_resumed_run_has_the_file_of_an_uninterrupted_one(tmp_path):
  _write(tmp_path / 'whole', range(1, 8))
  _write(tmp_path / 'resumed', range(1, 6))
  _write(tmp_path / 'resumed', range(4, 8), resume_step=3)
  assert _text(tmp_path / 'resumed') == _text(tmp_path / 'whole')
  assert not list((tmp_path / 'resumed').glob('*.tmp'))


def test_a_line_that_a_kill_cut_off_is_dropped(tmp_path):
  _write(tmp_path / 'whole', range(1, 4))
  _write(tmp_path, [1, 2])
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 3, "split": "tr')
  assert [m['step'] for m in read_metrics(tmp_path / 'metrics.jsonl')] == [1, 2]
  _write(tmp_path, [3], resume_step=2)
  assert _text(tmp_path) == _text(tmp_path / 'whole')


def test_a_run_that_starts_anew_forgets_the_one_before(tmp_path):
  _write(tmp_path, [0, 1, 2])
  _write(tmp_path, [0, 1])
  steps = [m['step'] for m in read_metrics(tmp_path / 'metrics.jsonl')]
  assert steps == [0, 1]


def test_tensorboard_gets_the_metrics_by_split(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer.write(5, 'test', {'loss': 0.25, 'nan': math.nan})
  values = {
    value.tag: (event.step, value.simple_value)
    for event in events(tmp_path)
    for value in event.summary.value
  }
  assert values['test/loss'] == (5, 0.25)
  assert 'test/nan' not in values  # It could not be drawn.


def test_tensorboard_drops_the_steps_that_are_repeated(tmp_path):
  _write(tmp_path, [1, 2])
  _write(tmp_path, [2], resume_step=1)
  starts = [e.step for e in events(tmp_path) if e.session_log.status]
  assert starts[-1] == 2


def test_starts_in_the_same_second_have_files_of_their_own(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(time, 'time', lambda: 1_700_000_000.0)
  _write(tmp_path, [1, 2])
  _write(tmp_path, [3], resume_step=2)
  assert len(list(tmp_path.glob('events.*'))) == 2
  starts = [e.step for e in events(tmp_path) if e.session_log.status]
  assert starts == [0, 3]


def test_only_the_primary_process_writes(tmp_path):
  _write(tmp_path / 'run', [1, 2], is_primary=False)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('name', ['step', 'split'])
def test_a_metric_must_not_hide_the_step_or_split(tmp_path, name):
  with (
    MetricWriter(tmp_path) as writer,
    pytest.raises(ValueError, match=f"must not be called .* got '{name}'"),
  ):
    writer.write(1, 'train', {name: 1.0})
  assert _text(tmp_path) == ''


@pytest.mark.parametrize('value', [np.ones(2), 'high', None])
def test_a_metric_must_be_a_scalar(tmp_path, value):
  with (
    MetricWriter(tmp_path) as writer,
    pytest.raises(ValueError, match='metric loss must be a scalar, got'),
  ):
    writer.write(1, 'train', {'loss': value})


@pytest.mark.parametrize(
  'damaged',
  [
    b'{"step": 2, "split": "tr',
    b'{"step": 2, "split": "tr\xf2in", "loss": 0.25}',
    b'{"step": 2, "splat": "train", "loss": 0.25}',
    b'{"stap": 2, "split": "train", "loss": 0.25}',
    b'{"step": 2, "split": "train", "loss": "NcN"}',
    b'{"step": 2, "split": "train", "loss": null}',
    b'2',
  ],
)
def test_a_damaged_line_is_named_and_left_out_by_a_run_that_goes_on(
  tmp_path, caplog, damaged
):
  path = tmp_path / 'metrics.jsonl'
  _write(tmp_path, [1, 2, 3])
  first, _, third = path.read_bytes().splitlines()
  text = b'\n'.join([first, damaged, third, b''])
  path.write_bytes(text)
  with pytest.raises(ValueError, match=r'must be a JSON object.*in line 2'):
    read_metrics(path)
  _write(tmp_path, [4], resume_step=3)
  assert [line['step'] for line in read_metrics(path)] == [1, 3, 4]
  assert (tmp_path / 'metrics.jsonl.damaged').read_bytes() == text
  assert '1 lines are left out, the first of them line 2' in caplog.text
