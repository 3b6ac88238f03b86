"""Classification: losses and metrics against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_jax.data.base import ArraySpec
from perceiver_jax.modalities.image import FourierPositions, ImageInput
from perceiver_jax.modalities.label import LabelOutput
from perceiver_jax.model import AverageDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import SelfAttendConfig
from perceiver_jax.tasks.classification import ClassificationTask

MODEL = PerceiverConfig(
  inputs=ImageInput(positions=FourierPositions(num_bands=1)),
  outputs=LabelOutput(num_classes=6),
  num_latents=2,
  latent_channels=4,
  num_blocks=1,
  num_self_attends_per_block=1,
  self_attend=SelfAttendConfig(num_heads=1),
  decoder=AverageDecoder(),
)
SPEC = {
  'image': ArraySpec((4, 4, 3), np.dtype(np.uint8)),
  'label': ArraySpec((), np.dtype(np.int32)),
}
LOGITS = np.array(
  [
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
    [2.0, 2.0, 0.0, 0.0, 0.0, 0.0],
    [7.0, 7.0, 7.0, 7.0, 7.0, 7.0],
  ],
  np.float32,
)

RNGS = jax.random.split(jax.random.key(0), len(LOGITS))


@pytest.fixture
def logits(monkeypatch):
  """Puts constant logits in the place of the model's."""

  class Constant:
    @staticmethod
    def apply(params, state, rng, images, is_training=False):
      return jnp.array(LOGITS), state

  monkeypatch.setattr(
    'perceiver_jax.tasks.classification.build_with_state', lambda _: Constant
  )
  return LOGITS.astype(np.float64)


def _metrics(labels, **fields):
  batch = {'image': np.zeros((4, 4, 4, 3), np.uint8), 'label': labels}
  return ClassificationTask(**fields).make(MODEL).metrics({}, {}, batch)[0]


def _log_probabilities(logits):
  return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def test_loss_is_the_negative_log_probability_of_the_label(logits):
  labels = np.array([5, 0, 1, 3])
  expected = -_log_probabilities(logits)[np.arange(4), labels]
  loss = _metrics(labels)['loss']
  np.testing.assert_allclose(loss, expected, rtol=1e-6)
  # By hand: a uniform distribution over six classes.
  np.testing.assert_allclose(loss[3], np.log(6.0), rtol=1e-6)


def test_smoothing_spreads_mass_over_all_classes_in_training_only(logits):
  labels = np.array([5, 0, 1, 3])
  plain = _metrics(labels)['loss']
  evaluated = _metrics(labels, label_smoothing=0.3)['loss']
  np.testing.assert_array_equal(evaluated, plain)
  log_probabilities = _log_probabilities(logits)
  right = log_probabilities[np.arange(4), labels]
  expected = -(0.7 * right + 0.3 * log_probabilities.mean(axis=-1))
  batch = {'image': np.zeros((4, 4, 4, 3), np.uint8), 'label': labels}
  task = ClassificationTask(label_smoothing=0.3).make(MODEL)
  _, (_, metrics) = task.loss({}, {}, RNGS, batch)
  loss = metrics['loss']
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_loss_of_a_mixed_label_is_the_mix_of_the_losses(logits):
  mixed = np.zeros((4, 6), np.float32)
  mixed[:, 2], mixed[:, 4] = 0.75, 0.25
  two, four = (_metrics(np.full(4, c))['loss'] for c in (2, 4))
  metrics = _metrics(mixed)
  np.testing.assert_allclose(
    metrics['loss'], 0.75 * two + 0.25 * four, rtol=1e-6
  )
  # The class of a mixed label is the one with the most mass.
  for name in ('top_1_accuracy', 'top_5_accuracy'):
    np.testing.assert_array_equal(
      metrics[name], _metrics(np.full(4, 2))[name], err_msg=name
    )


def test_accuracy_is_the_rank_of_the_label_and_ties_go_to_the_first(logits):
  metrics = _metrics(np.array([5, 0, 1, 3]))
  np.testing.assert_array_equal(metrics['top_1_accuracy'], [1, 0, 0, 0])
  np.testing.assert_array_equal(metrics['top_5_accuracy'], [1, 0, 1, 1])
  metrics = _metrics(np.array([4, 1, 0, 5]))
  np.testing.assert_array_equal(metrics['top_1_accuracy'], [0, 0, 1, 0])
  np.testing.assert_array_equal(metrics['top_5_accuracy'], [1, 1, 1, 0])


def test_label_of_rank_0_is_the_one_predicted(logits, monkeypatch):
  few = np.random.default_rng(0).integers(0, 3, (4, 6)).astype(np.float32)
  monkeypatch.setitem(globals(), 'LOGITS', few)
  task = ClassificationTask().make(MODEL)
  for label in range(6):
    labels = np.full(4, label)
    batch = {'image': np.zeros((4, 4, 4, 3), np.uint8), 'label': labels}
    _, outcomes = task.metrics({}, {}, batch)
    np.testing.assert_array_equal(
      outcomes['rank'] == 0, outcomes['predicted'] == labels
    )


def test_model_that_diverged_is_never_right(logits, monkeypatch):
  monkeypatch.setitem(globals(), 'LOGITS', np.full((4, 6), np.nan))
  metrics = _metrics(np.array([5, 0, 1, 3]))
  for name in ('top_1_accuracy', 'top_5_accuracy'):
    assert not np.any(metrics[name]), name


def test_loss_of_training_is_the_mean_over_the_batch(logits):
  labels = np.array([5, 0, 1, 3])
  batch = {'image': np.zeros((4, 4, 4, 3), np.uint8), 'label': labels}
  task = ClassificationTask(label_smoothing=0.1).make(MODEL)
  loss, (state, metrics) = task.loss({}, {}, RNGS, batch)
  np.testing.assert_allclose(loss, metrics['loss'].mean(), rtol=1e-6)
  assert metrics['loss'].shape == (4,)
  assert state == {}


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_colours_are_normalised_each_by_its_mean_and_deviation(dtype):
  images = np.zeros((1, 1, 2, 3), dtype)
  images[0, 0] = [[0, 51, 255], [255, 102, 0]]
  task = ClassificationTask(
    image_mean=(0.5, 0.2, 0.1), image_std=(0.5, 0.1, 0.3)
  )
  normalised = task.make(MODEL).inputs({'image': images})
  np.testing.assert_allclose(
    normalised, [[[[-1.0, 0.0, 3.0], [1.0, 2.0, -1 / 3]]]], atol=1e-6
  )


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'image': None}, r"the model takes, \['image'\], got \['label'\]"),
    ({'label': None}, r"must have 'label', got \['image'\]"),
    ({'image': (4, 4)}, r"'image' must have the axes \[Y, X, C\], got \(4, 4"),
    ({'label': (1,)}, r'one class or a distribution over the 6 .* \(1,\)'),
    ({'label': (5,)}, r'one class or a distribution over the 6 .* \(5,\)'),
  ],
)
def test_data_that_does_not_suit_is_refused(changes, message):
  spec = dict(SPEC)
  for name, shape in changes.items():
    if shape is None:
      del spec[name]
    else:
      spec[name] = ArraySpec(shape, SPEC[name].dtype)
  with pytest.raises(ValueError, match=message):
    ClassificationTask().validate_spec(spec, MODEL)


def test_data_that_suits_is_accepted():
  soft = SPEC | {'label': ArraySpec((6,), np.dtype(np.float32))}
  for spec in (SPEC, soft):
    ClassificationTask(image_mean=(0.1, 0.2, 0.3)).validate_spec(spec, MODEL)


@pytest.mark.parametrize('name', ['image_mean', 'image_std'])
def test_colours_must_each_have_their_number(name):
  task = ClassificationTask(**{name: (0.5, 0.5)})
  with pytest.raises(
    ValueError, match=rf'{name} must have 1 or 3.* \(0.5, 0.5'
  ):
    task.validate_spec(SPEC, MODEL)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'label_smoothing': 1.0}, r'label_smoothing must be in \[0, 1\), got 1.0'),
    ({'image_std': (0.5, 0.0)}, r'image_std must be positive, got \(0.5, 0.0'),
    ({'image_std': ()}, r'image_std must be positive, got \(\)'),
  ],
)
def test_fields_out_of_range_are_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    ClassificationTask(**fields).validate()


@pytest.mark.parametrize('label', [-1, 6])
def test_label_out_of_range_is_refused(label):
  batch = {'label': np.array([[0, 5], [label, 0]], np.int32)}
  with pytest.raises(ValueError, match=rf'in \[0, 6\), .* got {label}\.'):
    ClassificationTask().validate_batch(batch, MODEL)
  ClassificationTask().validate_batch({'label': np.array([[0, 5]])}, MODEL)


@pytest.mark.parametrize('wrong', [0.4, -0.5, np.nan])
def test_label_that_is_no_distribution_is_refused(wrong):
  labels = np.eye(6, dtype=np.float32)[None, [1, 3]]
  ClassificationTask().validate_batch({'label': labels}, MODEL)
  labels[0, 1, 2] = wrong
  with pytest.raises(ValueError, match='labels must be distributions'):
    ClassificationTask().validate_batch({'label': labels}, MODEL)
  # What fills up a batch of an evaluation is no example.
  masked = {'label': labels, 'mask': np.array([[True, False]])}
  ClassificationTask().validate_batch(masked, MODEL)
