"""Tagging: loss and scores by hand, and an evaluation on many devices."""

import sys

import jax
import jax.numpy as jnp
import many_processes
import numpy as np
import pytest
import tiny_tagging
from sklearn import metrics as sklearn_metrics
from tiny_tagging import (
  ABSENT_CLASS,
  NUM_CLASSES,
  NUM_EXAMPLES,
  NUM_SAMPLES,
  audio_input,
  both_inputs,
  tiny_model,
  video_input,
)

from perceiver_jax.data.base import ArraySpec
from perceiver_jax.modalities.multimodal import MultimodalInput
from perceiver_jax.modalities.text import TextInput, TextOutput
from perceiver_jax.tasks.report import PER_CLASS_FILE, TagReport
from perceiver_jax.tasks.tagging import TaggingTask
from perceiver_jax.training.job import make_job

BATCH_SIZE = 2
NUM_CLIPS = 3
SPEC = {
  'audio': ArraySpec((NUM_CLIPS, NUM_SAMPLES, 1), np.dtype(np.int16)),
  'video': ArraySpec((NUM_CLIPS, 1, 2, 2, 3), np.dtype(np.uint8)),
  'labels': ArraySpec((NUM_CLASSES,), np.dtype(np.uint8)),
}
LABELS = np.array([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]], np.uint8)
BOTH = tiny_model(both_inputs())
RNGS = jax.random.split(jax.random.key(0), BATCH_SIZE)


def _batch(seed=0):
  rng = np.random.default_rng(seed)
  batch = {
    name: rng.integers(
      np.iinfo(array.dtype).min,
      np.iinfo(array.dtype).max,
      size=(BATCH_SIZE, *array.shape),
      dtype=array.dtype,
    )
    for name, array in SPEC.items()
  }
  return batch | {'labels': LABELS}


@pytest.fixture
def model_sees(monkeypatch):
  """Puts a model whose logits are the means of its inputs in the place of it.

  Returns what the model saw.
  """
  seen = []

  class Mean:
    @staticmethod
    def apply(params, state, rng, inputs, is_training=False):
      seen.append((inputs, is_training))
      logits = sum(
        5 * array.reshape(len(array), -1).mean(axis=-1, keepdims=True)
        for array in jax.tree.leaves(inputs)
      )
      return logits * jnp.arange(NUM_CLASSES), state

  monkeypatch.setattr(
    'perceiver_jax.tasks.tagging.build_with_state', lambda _: Mean
  )
  return seen


def _expected_logits(batch):
  """Returns logits `[B, K, V]` in float64, one clip after the other."""
  logits = np.zeros((BATCH_SIZE, NUM_CLIPS, NUM_CLASSES))
  for row in range(BATCH_SIZE):
    for clip in range(NUM_CLIPS):
      audio = np.mean(batch['audio'][row, clip] / 32768)
      video = np.mean((batch['video'][row, clip] / 255 - 0.5) / 0.5)
      logits[row, clip] = 5 * (audio + video) * np.arange(NUM_CLASSES)
  return logits


def _expected_losses(logits):
  """Returns the mean cross-entropy of each clip, `[B, K]`."""
  probabilities = 1 / (1 + np.exp(-logits))
  right = np.where(LABELS[:, None], probabilities, 1 - probabilities)
  return -np.log(right).mean(axis=-1)


def test_score_is_the_mean_sigmoid_of_the_clips(model_sees):
  batch = _batch()
  metrics, outcomes = TaggingTask().make(BOTH).metrics({}, {}, batch)
  logits = _expected_logits(batch)
  expected = (1 / (1 + np.exp(-logits))).mean(axis=1)
  np.testing.assert_allclose(outcomes['scores'], expected, rtol=1e-5)
  np.testing.assert_array_equal(outcomes['labels'], LABELS == 1)
  losses = _expected_losses(logits).mean(axis=1)
  np.testing.assert_allclose(metrics['loss'], losses, rtol=1e-5)
  assert not model_sees[0][1]


def test_every_clip_is_trained_on_with_the_labels_of_its_example(model_sees):
  batch = _batch()
  task = TaggingTask().make(BOTH)
  loss, (_, metrics) = task.loss({}, {}, RNGS, batch)
  losses = _expected_losses(_expected_logits(batch))
  np.testing.assert_allclose(metrics['loss'], losses.mean(axis=1), rtol=1e-5)
  np.testing.assert_allclose(loss, losses.mean(), rtol=1e-5)
  ((inputs, is_training),) = model_sees
  assert is_training
  assert inputs['audio'].shape == (BATCH_SIZE * NUM_CLIPS, NUM_SAMPLES, 1)
  np.testing.assert_allclose(
    inputs['audio'][NUM_CLIPS], batch['audio'][1, 0] / 32768.0, rtol=1e-6
  )


@pytest.mark.parametrize('name', ['audio', 'video'])
def test_model_of_one_stream_gets_its_array(name, model_sees):
  config = {'audio': audio_input, 'video': video_input}[name]()
  batch = {
    key: value for key, value in _batch().items() if key in (name, 'labels')
  }
  task = TaggingTask().make(tiny_model(config))
  inputs = task.inputs(batch)
  assert inputs.shape == (BATCH_SIZE * NUM_CLIPS, *SPEC[name].shape[1:])
  assert task.metrics({}, {}, batch)[1]['scores'].shape == LABELS.shape


def test_colours_are_normalised_each_by_its_mean_and_deviation():
  task = TaggingTask(colour_mean=(0.5, 0.2, 0.1), colour_std=(0.5, 0.1, 0.3))
  video = np.zeros((1, 1, 1, 1, 2, 3), np.uint8)
  video[..., 0, :], video[..., 1, :] = [0, 51, 255], [255, 102, 0]
  normalised = task.make(tiny_model(video_input())).inputs({'video': video})
  np.testing.assert_allclose(
    normalised[0, 0, 0], [[-1.0, 0.0, 3.0], [1.0, 2.0, -1 / 3]], atol=1e-6
  )


# Processes, and devices of each.
@pytest.fixture(scope='module', params=[(1, 1), (1, 8), (2, 4)])
def evaluated(request, tmp_path_factory):
  """What an evaluation on so many devices gave, in every process."""
  num_processes, num_devices = request.param
  directory = tmp_path_factory.mktemp('evaluated')
  for ended in many_processes.run(
    [sys.executable, tiny_tagging.__file__, str(directory)],
    num_processes=num_processes,
    num_devices=num_devices,
  ):
    assert ended.returncode == 0, ended.stderr
  first, *others = (
    dict(np.load(directory / f'{index}.npz')) for index in range(num_processes)
  )
  assert first['devices'] == num_processes * num_devices
  for other in others:
    assert other.keys() == first.keys()
    for name, array in first.items():
      np.testing.assert_array_equal(other[name], array)
  return first


@pytest.fixture(scope='module')
def exact_outcomes():
  """The outcomes of all examples in one piece."""
  job = make_job(tiny_tagging.tiny_config(), is_training=False)
  config = job.config.data
  examples = [config.preprocess(i, None) for i in range(NUM_EXAMPLES)]
  batch = {n: np.stack([e[n] for e in examples]) for n in examples[0]}
  state = tiny_tagging.first_state(job)
  return job.task.metrics(state.params, state.model_state, batch)


def test_evaluation_ranks_every_example_once_on_any_devices(
  evaluated, exact_outcomes
):
  means, outcomes = exact_outcomes
  assert evaluated['num_examples'] == NUM_EXAMPLES
  assert evaluated['scores'].shape == (NUM_EXAMPLES, NUM_CLASSES)
  np.testing.assert_allclose(evaluated['scores'], outcomes['scores'], rtol=1e-5)
  np.testing.assert_array_equal(evaluated['labels'], outcomes['labels'])
  np.testing.assert_allclose(evaluated['loss'], means['loss'].mean(), rtol=1e-5)


def test_mean_average_precision_is_that_of_scikit_learn_on_any_devices(
  evaluated,
):
  present = np.delete(np.arange(NUM_CLASSES), ABSENT_CLASS)
  expected = sklearn_metrics.average_precision_score(
    evaluated['labels'][:, present], evaluated['scores'][:, present]
  )
  np.testing.assert_allclose(
    evaluated['mean_average_precision'], expected, atol=1e-6
  )
  assert evaluated['classes_without_positives'] == 1


def test_best_checkpoint_can_be_that_of_the_best_ranking():
  config = tiny_tagging.tiny_config()
  make_job(config.copy())
  config.checkpoint.best_metric = 'top_1_accuracy'
  with pytest.raises(ValueError, match=r"'mean_average_precision'.*got 'top_1"):
    make_job(config)


def test_report_tells_how_each_tag_was_told(tmp_path):
  report = TagReport(['dog', 'owl'])
  scores = np.array([[0.9, 0.1, 0.3], [0.2, 0.6, 0.4], [0.3, 0.5, 0.5]])
  labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], bool)
  for rows in (slice(0, 1), slice(1, 3)):
    report.observe({'scores': scores[rows], 'labels': labels[rows]})
  report.save(tmp_path)
  assert (tmp_path / PER_CLASS_FILE).read_text().splitlines() == [
    'class,name,positives,average_precision,auc',
    '0,dog,2,1.0000,1.0000',
    '1,owl,1,1.0000,1.0000',
    '2,2,0,,',
  ]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'audio': None}, r"exactly \['audio', 'labels', 'video'\], got \['lab"),
    ({'image': ((1,), np.uint8)}, r"got \['audio', 'image', 'labels', 'video"),
    ({'audio': ((16, 1), np.int16)}, r'must have the axes \[S, C\]'),
    ({'audio': ((3, 16, 1), np.int32)}, r'must be int16 or floats, got int32'),
    ({'audio': ((2, 16, 1), np.int16)}, 'of clips must be the same'),
    ({'video': ((3, 2, 2, 3), np.uint8)}, r'axes \[T, Y, X, C\], got'),
    (
      {'labels': ((4,), np.uint8)},
      r'uint8 of shape \(5,\), .*4',
    ),
    ({'labels': ((5,), np.int32)}, r'labels must be uint8 .* got int32'),
  ],
)
def test_data_that_does_not_suit_is_refused(changes, message):
  spec = dict(SPEC)
  for name, array in changes.items():
    if array is None:
      del spec[name]
    else:
      spec[name] = ArraySpec(array[0], np.dtype(array[1]))
  TaggingTask().validate_spec(SPEC, BOTH)
  with pytest.raises(ValueError, match=message):
    TaggingTask().validate_spec(spec, BOTH)


def test_video_that_the_model_does_not_take_is_refused():
  with pytest.raises(ValueError, match=r"exactly \['audio', 'labels'\], got"):
    TaggingTask().validate_spec(SPEC, tiny_model(audio_input()))


@pytest.mark.parametrize(
  ('inputs', 'message'),
  [
    (TextInput(), 'inputs of the model must be of .* got TextInput'),
    (MultimodalInput(modalities={'x': TextInput()}), 'got TextInput'),
  ],
)
def test_model_of_other_inputs_is_refused(inputs, message):
  with pytest.raises(ValueError, match=message):
    TaggingTask().validate_model(tiny_model(inputs))


def test_model_of_other_outputs_is_refused():
  model = tiny_model(audio_input())
  model.outputs = TextOutput()
  with pytest.raises(ValueError, match='must be a LabelOutput, got TextOutput'):
    TaggingTask().validate_model(model)


def test_labels_other_than_0_and_1_are_refused():
  labels = np.zeros((2, 3, NUM_CLASSES), np.uint8)
  TaggingTask().validate_batch({'labels': labels + 1}, BOTH)
  labels[1, 2, 3] = 2
  with pytest.raises(ValueError, match='labels must be 0 or 1, got 2'):
    TaggingTask().validate_batch({'labels': labels}, BOTH)


@pytest.mark.parametrize('name', ['colour_mean', 'colour_std'])
def test_numbers_of_colours_that_do_not_fit_are_refused(name):
  task = TaggingTask(**{name: (0.5, 0.5)})
  with pytest.raises(ValueError, match=rf'{name} must have 1 or 3 numbers'):
    task.validate_spec(SPEC, BOTH)


def test_deviation_of_zero_is_refused():
  with pytest.raises(ValueError, match=r'colour_std must be positive, got \(0'):
    TaggingTask(colour_std=(0.0,)).validate()
