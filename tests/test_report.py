"""The report of an evaluation: counts by class, and confident mistakes."""

import csv

import numpy as np
import pytest

from perceiver_jax.tasks.report import (
  MISTAKES_FILE,
  PER_CLASS_FILE,
  ClassReport,
)

RNG = np.random.default_rng(0)
LABELS = np.array([0, 1, 1, 2, 2, 2])
RANKS = np.array([0.0, 0.0, 3.0, 7.0, 4.0, 0.0])
PREDICTED = np.array([0, 1, 2, 0, 1, 2])
PROBABILITIES = np.array([0.9, 0.8, 0.6, 0.95, 0.5, 0.7])


def _observed(names=('cat', 'dog', 'owl')):
  report = ClassReport(names)
  images = np.full((6, 8, 8, 3), 100.0)
  for rows in (slice(0, 2), slice(2, 6)):
    outcomes = {
      'label': LABELS[rows],
      'rank': RANKS[rows],
      'predicted': PREDICTED[rows],
      'probability': PROBABILITIES[rows],
    }
    report.observe({'image': images[rows]}, outcomes)
  return report


def _table(directory):
  with (directory / PER_CLASS_FILE).open() as file:
    return list(csv.reader(file))


def test_table_counts_the_examples_of_each_class(tmp_path):
  _observed().save(tmp_path)
  assert _table(tmp_path) == [
    ['class', 'name', 'examples', 'top_1', 'top_5'],
    ['0', 'cat', '1', '1.0000', '1.0000'],
    ['1', 'dog', '2', '0.5000', '1.0000'],
    ['2', 'owl', '3', '0.3333', '0.6667'],
  ]


def test_classes_without_names_have_their_numbers(tmp_path):
  _observed(names=()).save(tmp_path)
  assert [row[1] for row in _table(tmp_path)[1:]] == ['0', '1', '2']


def test_picture_shows_the_most_confident_mistakes_first(tmp_path):
  report = _observed()
  report.save(tmp_path)
  png = (tmp_path / MISTAKES_FILE).read_bytes()
  assert png.startswith(b'\x89PNG')
  titles = [axes.get_title(loc='left') for axes in report._figure().axes]
  assert titles[:4] == [
    'cat  95%\nis owl', 'owl  60%\nis dog', 'dog  50%\nis owl', '',
  ]  # fmt: skip


@pytest.mark.parametrize(
  ('arrays', 'drawn'),
  [
    ({'video': RNG.integers(256, size=(6, 3, 4, 4, 3))}, 'images'),
    ({'points': RNG.normal(size=(6, 30, 3))}, 'collections'),
    ({'audio': RNG.normal(size=(6, 600, 1))}, 'images'),
  ],
)
def test_mistakes_of_other_kinds_are_drawn_as_well(arrays, drawn):
  report = ClassReport(())
  outcomes = {
    'label': LABELS, 'rank': RANKS, 'predicted': PREDICTED,
    'probability': PROBABILITIES,
  }  # fmt: skip
  report.observe(arrays, outcomes)
  figure = report._figure()
  assert [len(getattr(axes, drawn)) for axes in figure.axes] == [
    1,
    1,
    1,
    0,
    0,
    0,
  ]


def test_the_middle_frame_of_a_video_is_drawn():
  report = ClassReport(())
  videos = RNG.integers(256, size=(1, 5, 4, 4, 3))
  report.observe(
    {'audio': np.zeros((1, 9, 1)), 'video': videos},
    {
      'label': np.array([0]), 'rank': np.array([1.0]),
      'predicted': np.array([1]), 'probability': np.array([0.5]),
    },
  )  # fmt: skip
  (image,) = report._figure().axes[0].images
  np.testing.assert_array_equal(image.get_array(), videos[0, 2])


def test_only_the_most_confident_of_many_mistakes_are_kept(tmp_path):
  report = ClassReport(())
  probabilities = np.random.default_rng(0).random(200)
  for start in range(0, 200, 50):
    rows = slice(start, start + 50)
    ones = np.ones(50, int)
    outcomes = {
      'label': 0 * ones, 'rank': ones, 'predicted': ones,
      'probability': probabilities[rows],
    }  # fmt: skip
    report.observe({'image': np.zeros((50, 4, 4, 1))}, outcomes)
  titles = [axes.get_title(loc='left') for axes in report._figure().axes]
  best = np.sort(probabilities)[::-1][:24]
  assert titles == [f'1  {p:.0%}\nis 0' for p in best]


def test_evaluation_without_mistakes_has_no_picture(tmp_path):
  ClassReport(()).save(tmp_path / 'new')
  assert (tmp_path / 'new' / PER_CLASS_FILE).exists()
  assert not (tmp_path / 'new' / MISTAKES_FILE).exists()
