"""The report of an evaluation: counts by class, and confident mistakes."""

import csv

import numpy as np
import pytest

from perceiver_jax.tasks.report import (
  PER_CLASS_FILE,
  ClassReport,
  TagReport,
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
    report.observe(outcomes)
    report.show({'image': images[rows]}, outcomes)
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
  png = (tmp_path / 'mistakes.png').read_bytes()
  assert png.startswith(b'\x89PNG')
  titles = [
    axes.get_title(loc='left') for axes in report._mistakes.figure().axes
  ]
  assert titles[:4] == [
    'cat  95%\nis owl', 'owl  60%\nis dog', 'dog  50%\nis owl', '',
  ]  # fmt: skip


def test_long_names_take_two_lines_and_end_in_dots():
  names = (
    'Chopping food on a board',
    'Male speech, man speaking in a small room in the distance',
    'owl',
  )
  axes = _observed(names)._mistakes.figure().axes
  assert [each.get_title(loc='left') for each in axes[:3]] == [
    'Chopping food on a bo…  95%\nis owl',
    'owl  60%\nis Male speech, man speaking\nin a small room in the …',
    'Male speech, man spea…  50%\nis owl',
  ]


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
  report.show(arrays, outcomes)
  figure = report._mistakes.figure()
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
  report.show(
    {'audio': np.zeros((1, 9, 1)), 'video': videos},
    {
      'label': np.array([0]), 'rank': np.array([1.0]),
      'predicted': np.array([1]), 'probability': np.array([0.5]),
    },
  )  # fmt: skip
  (image,) = report._mistakes.figure().axes[0].images
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
    report.show({'image': np.zeros((50, 4, 4, 1))}, outcomes)
  titles = [
    axes.get_title(loc='left') for axes in report._mistakes.figure().axes
  ]
  best = np.sort(probabilities)[::-1][:24]
  assert titles == [f'1  {p:.0%}\nis 0' for p in best]


def test_evaluation_without_mistakes_has_no_picture(tmp_path):
  ClassReport(()).save(tmp_path / 'new')
  assert (tmp_path / 'new' / PER_CLASS_FILE).exists()
  assert not (tmp_path / 'new' / 'mistakes.png').exists()


def test_confusions_are_counted_by_label_and_prediction():
  report = _observed()
  (axes,) = report._classes().axes
  texts = {text.get_position(): text.get_text() for text in axes.texts}
  # By (prediction, label): one cat, one dog told and one taken for an owl, ...
  assert texts == {
    (0, 0): '1', (1, 1): '1', (2, 1): '1', (0, 2): '1', (1, 2): '1',
    (2, 2): '1',
  }  # fmt: skip
  shares = np.square(axes.images[0].get_array())
  np.testing.assert_allclose(
    shares, [[1, 0, 0], [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]]
  )
  names = [label.get_text() for label in axes.get_yticklabels()]
  assert names == ['cat  100%', 'dog  50%', 'owl  33%']


def test_of_many_classes_the_worst_and_their_confusions_are_drawn():
  report = ClassReport(())
  labels = np.repeat(np.arange(60), 10)
  # Class c is taken for the next one c // 6 times of 10.
  is_wrong = np.tile(np.arange(10), 60) < labels // 6
  predicted = np.where(is_wrong, (labels + 1) % 60, labels)
  report.observe(
    {'label': labels, 'rank': is_wrong.astype(float), 'predicted': predicted}
  )
  worst, confusions = report._classes().axes
  names = [label.get_text() for label in worst.get_yticklabels()]
  assert len(names) == 40 and set(names[:6]) == set(map(str, range(54, 60)))
  widths = [bar.get_width() for bar in worst.patches]
  np.testing.assert_allclose(widths[:7], [0.1] * 6 + [0.2])
  first = confusions.get_yticklabels()[0].get_text()
  assert first in {f'{c} → {(c + 1) % 60}' for c in range(54, 60)}
  assert confusions.patches[0].get_width() == 9


def test_sound_is_drawn_below_what_is_seen():
  report = ClassReport(())
  batch = {
    'video': RNG.integers(256, size=(6, 3, 4, 4, 3)),
    'audio': RNG.normal(size=(6, 600, 1)),
  }
  outcomes = {
    'label': LABELS, 'rank': RANKS, 'predicted': PREDICTED,
    'probability': PROBABILITIES,
  }  # fmt: skip
  report.show(batch, outcomes)
  seen, heard = np.reshape(report._mistakes.figure().axes, (2, 6))
  for axes in (*seen[:3], *heard[:3]):
    assert len(axes.images) == 1
  assert seen[0].get_title(loc='left') == '0  95%\nis 2'


def test_silence_can_be_drawn(tmp_path):
  report = ClassReport(())
  outcomes = {
    'label': LABELS, 'rank': RANKS, 'predicted': PREDICTED,
    'probability': PROBABILITIES,
  }  # fmt: skip
  report.observe(outcomes)
  report.show({'audio': np.zeros((6, 600, 1))}, outcomes)
  assert report.save(tmp_path)['mistakes'].any()


def test_mistakes_of_an_earlier_evaluation_are_removed(tmp_path):
  _observed().save(tmp_path)
  report = ClassReport(())
  outcomes = {'label': LABELS, 'rank': 0 * RANKS, 'predicted': LABELS}
  report.observe(outcomes)
  report.save(tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == {
    PER_CLASS_FILE,
    'classes.png',
  }


def test_of_tags_the_most_confident_wrong_ones_are_shown():
  report = TagReport(['dog', 'owl', 'cat'])
  scores = np.array([[0.9, 0.8, 0.3], [0.2, 0.6, 0.95], [0.3, 0.5, 0.4]])
  labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]], bool)
  outcomes = {'scores': scores, 'labels': labels}
  audio = RNG.integers(-9, 9, size=(3, 2, 600, 1)).astype(np.int16)
  report.show({'audio': audio}, outcomes)
  figure = report._mistakes.figure()
  titles = [axes.get_title(loc='left') for axes in figure.axes]
  assert titles[:3] == ['cat  95%\nis owl', 'owl  80%\nis dog', '']


def test_bars_are_the_average_precisions_of_the_tags(tmp_path):
  report = TagReport(['dog', 'owl', 'cat'])
  scores = np.array([[0.9, 0.1, 0.3], [0.2, 0.6, 0.4], [0.3, 0.9, 0.5]])
  labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], bool)
  report.observe({'scores': scores, 'labels': labels})
  (axes,) = report._classes().axes
  names = [label.get_text() for label in axes.get_yticklabels()]
  assert names == ['dog (2)', 'owl (1)']
  assert [bar.get_width() for bar in axes.patches] == [1.0, 0.5]
  assert report.save(tmp_path).keys() == {'classes'}
