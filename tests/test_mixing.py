"""MixUp and CutMix: what is mixed with what, and how much of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_jax.tasks.mixing import Mixing

SIZE = (12, 16)
RNG = jax.random.key(0)


@functools.cache
def _mixer(**fields):
  return jax.jit(Mixing(**fields).mix)


def _mix(num=64, rng=RNG, first=0, **fields):
  """Mixes images that hold their own place, with labels that are one-hot."""
  places = first + jnp.arange(num)
  images = jnp.broadcast_to(
    places[:, None, None, None].astype(jnp.float32), (num, *SIZE, 3)
  )
  labels = jax.nn.one_hot(jnp.arange(num), num)
  images, labels = _mixer(**fields)(rng, places, images, labels)
  return np.asarray(images), np.asarray(labels)


def _shares(labels):
  return np.diagonal(labels)


def test_labels_have_the_shares_of_the_pixels():
  num = 64
  images, labels = _mix(num)
  np.testing.assert_allclose(labels.sum(axis=1), 1.0, rtol=1e-6)
  # An image holds its place in the batch, so its mean tells the shares.
  np.testing.assert_allclose(
    images.mean(axis=(1, 2, 3)), labels @ np.arange(num), rtol=1e-5
  )


def test_only_the_two_of_a_pair_are_mixed_and_by_the_same_share():
  _, labels = _mix()
  for i in range(64):
    others = np.delete(labels[i], [i, i ^ 1])
    assert not others.any()
  np.testing.assert_allclose(_shares(labels)[::2], _shares(labels)[1::2])


def test_half_of_the_pairs_are_added_and_half_get_a_rectangle():
  images, labels = _mix()
  for i in range(64):
    values = np.unique(images[i])
    if i // 2 % 2 == 0:
      assert len(values) == 1
    else:
      assert set(values) <= {i, i ^ 1}
      swapped = images[i, :, :, 0] != i
      rows, columns = swapped.any(axis=1), swapped.any(axis=0)
      np.testing.assert_array_equal(swapped, rows[:, None] & columns)
      for line in (rows, columns):
        assert np.count_nonzero(np.diff(line.astype(int))) <= 2
  assert 0.0 < _shares(labels).min() < 0.5


def test_shares_follow_their_distributions():
  _, labels = _mix(2048)
  shares = _shares(labels).reshape(-1, 4)
  mixup, cutmix = shares[:, 0], shares[:, 2]
  # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)).
  np.testing.assert_allclose(mixup.mean(), 0.5, atol=0.05)
  np.testing.assert_allclose(mixup.var(), 1 / (4 * 1.4), atol=0.02)
  # A box of half the side loses less of its area at the border.
  assert 0.55 < cutmix.mean() < 0.75
  _, labels = _mix(2048, mixup_alpha=100.0, cutmix_alpha=100.0)
  shares = _shares(labels).reshape(-1, 4)
  assert np.abs(shares[:, 0] - 0.5).max() < 0.2
  assert shares[:, 2].min() > 0.3


def test_mixing_depends_on_the_step_and_the_place_only():
  _, whole = _mix()
  parts = [_shares(_mix(32, first=first)[1]) for first in (0, 32)]
  np.testing.assert_allclose(np.concatenate(parts), _shares(whole), rtol=1e-6)
  _, next_step = _mix(rng=jax.random.key(1))
  assert np.abs(_shares(next_step) - _shares(whole)).max() > 0.1


def test_odd_number_of_images_is_refused():
  with pytest.raises(ValueError, match='an even number .* got 3'):
    _mix(3)


@pytest.mark.parametrize('name', ['mixup_alpha', 'cutmix_alpha'])
def test_share_without_a_distribution_is_refused(name):
  with pytest.raises(ValueError, match=rf'{name} must be positive, got 0\.0'):
    Mixing(**{name: 0.0}).validate()
