import math

import matplotlib.image
import numpy as np
import pytest

from perceiver_jax.training import curves
from perceiver_jax.training.metrics import MetricWriter


def _write(workdir, metrics):
  with MetricWriter(workdir) as writer:
    for step in range(1, 6):
      writer.write(step, 'train', {n: step / 10 for n in metrics})
      writer.write(step, 'test', {'loss': step / 20})


def _size(path):
  """Returns the height and width of a picture."""
  return matplotlib.image.imread(path).shape[:2]


def _has(picture, color):
  red_green_blue = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
  return np.isclose(picture[..., :3], red_green_blue, atol=0.01).all(-1).any()


def test_a_picture_has_a_line_for_each_split(tmp_path):
  _write(tmp_path, ['loss'])
  path = curves.save_curves(tmp_path)
  assert path == tmp_path / 'curves.png'
  picture = matplotlib.image.imread(path)
  blue, red, green = '#0072B2', '#D55E00', '#009E73'
  assert _has(picture, blue)
  assert _has(picture, red)
  assert not _has(picture, green)


def test_each_metric_has_its_own_axes(tmp_path):
  sizes = []
  for count in (1, 3, 4):
    workdir = tmp_path / str(count)
    _write(workdir, ['loss', 'top_1_accuracy', 'b', 'c'][:count])
    sizes.append(_size(curves.save_curves(workdir)))
  one, three, four = sizes
  assert three == (one[0], 3 * one[1])
  assert four == (2 * one[0], 3 * one[1])


def test_losses_come_first_and_then_accuracies(tmp_path):
  names = ['grad_norm', 'learning_rate', 'top_1_accuracy', 'loss']
  _write(tmp_path, names)
  speed = {'step': 1, 'split': 'speed', 'data_wait_fraction': 0.1}
  # Another picture of the same curve would say nothing.
  speed |= {'examples_per_sec': 640.0, 'steps_per_sec': 10.0}
  lines = [speed, {'step': 1, 'split': 'train'} | dict.fromkeys(names, 1.0)]
  assert list(curves._by_metric(lines)) == [
    'loss',
    'top_1_accuracy',
    'learning_rate',
    'grad_norm',
    'data_wait_fraction',
    'examples_per_sec',
  ]


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_numbers_that_are_not_finite_can_be_drawn(tmp_path, value):
  with MetricWriter(tmp_path) as writer:
    for step in (0, 1, 2):
      writer.write(step, 'train', {'loss': value if step else 1.0})
  assert _size(curves.save_curves(tmp_path))


def test_a_single_point_can_be_drawn(tmp_path):
  with MetricWriter(tmp_path) as writer:
    writer.write(0, 'test', {'loss': 1.0})
  assert _has(matplotlib.image.imread(curves.save_curves(tmp_path)), '#0072B2')


def test_a_run_without_metrics_is_refused(tmp_path):
  with MetricWriter(tmp_path):
    pass
  with pytest.raises(ValueError, match='must have a line to be drawn'):
    curves.save_curves(tmp_path)
