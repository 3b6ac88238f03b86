import jax
import jax.numpy as jnp
import numpy as np
import pytest

from perceiver_jax.training import schedules


def _rates(schedule, steps, **run):
  run = {'batch_size': 8, 'steps_per_epoch': 10, 'num_steps': 100} | run
  rate = schedule.make(**run)
  return np.array([rate(step) for step in steps])


def test_constant_stays_at_the_learning_rate():
  rates = _rates(schedules.Constant(learning_rate=0.25), [0, 50, 100, 1000])
  np.testing.assert_array_equal(rates, 0.25)


def test_cosine_passes_through_hand_computed_values():
  schedule = schedules.Cosine(learning_rate=2.0)
  # Half a cosine: 1, (1 + sqrt(1/2)) / 2, 1/2, (1 - sqrt(1/2)) / 2, 0.
  np.testing.assert_allclose(
    _rates(schedule, [0, 25, 50, 75, 100, 120]),
    [2.0, 1.70710678, 1.0, 0.29289322, 0.0, 0.0],
    atol=1e-6,
  )


def test_cosine_ends_at_its_final_fraction():
  schedule = schedules.Cosine(learning_rate=2.0, final_fraction=0.1)
  np.testing.assert_allclose(
    _rates(schedule, [0, 50, 100, 101]), [2.0, 1.1, 0.2, 0.2], rtol=1e-6
  )


def test_cosine_falls_from_the_end_of_the_warmup():
  schedule = schedules.Cosine(learning_rate=1.0, warmup_steps=20)
  # Warm-up 0, 1/4, 3/4, 1; the middle of the other 80 steps is step 60.
  np.testing.assert_allclose(
    _rates(schedule, [0, 5, 15, 20, 60, 100]),
    [0.0, 0.25, 0.75, 1.0, 0.5, 0.0],
    atol=1e-6,
  )


def test_flat_then_cosine_is_the_recipe_of_perceiver_io():
  schedule = schedules.FlatThenCosine(learning_rate=2e-3)
  epochs = np.array([0, 1, 54, 55, 82.5, 110])
  rates = _rates(
    schedule, epochs * 1250, steps_per_epoch=1250, num_steps=137500
  )
  np.testing.assert_allclose(
    rates, [2e-3, 2e-3, 2e-3, 2e-3, 1e-3, 0], atol=1e-9
  )
  just_after = _rates(schedule, [51], num_steps=100)
  assert 0.99 * 2e-3 < just_after < 2e-3


def test_flat_then_cosine_never_falls_before_its_warmup_ends():
  schedule = schedules.FlatThenCosine(
    learning_rate=1.0, flat_fraction=0.0, warmup_steps=20
  )
  np.testing.assert_allclose(
    _rates(schedule, [10, 20, 60, 100]), [0.5, 1.0, 0.5, 0.0], atol=1e-6
  )


def test_flat_then_cosine_may_be_flat_to_the_end():
  schedule = schedules.FlatThenCosine(learning_rate=1.0, flat_fraction=1.0)
  np.testing.assert_array_equal(_rates(schedule, [0, 99, 100]), 1.0)


def test_step_decay_is_the_recipe_of_the_original_perceiver():
  schedule = schedules.StepDecay(
    learning_rate=0.004, decay_epochs=(84, 102, 114)
  )
  last_before = [83 * 10 + 9, 101 * 10 + 9, 113 * 10 + 9, 1200]
  np.testing.assert_allclose(
    _rates(schedule, last_before, num_steps=1200),
    [4e-3, 4e-4, 4e-5, 4e-6],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    _rates(schedule, [840, 1020, 1140], num_steps=1200),
    [4e-4, 4e-5, 4e-6],
    rtol=1e-6,
  )


def test_step_decay_starts_with_the_first_whole_step_of_its_epoch():
  schedule = schedules.StepDecay(
    learning_rate=1.0, decay_epochs=(1.0,), factor=0.5
  )
  # Epoch 1 starts after 30.5 steps, so step 31 is its first.
  np.testing.assert_array_equal(
    _rates(schedule, [30, 31], steps_per_epoch=30.5), [1.0, 0.5]
  )


def test_step_decay_is_not_late_by_a_rounding_error():
  schedule = schedules.StepDecay(
    learning_rate=1.0, decay_epochs=(1.1,), factor=0.5
  )
  assert 1.1 * 100 > 110
  np.testing.assert_array_equal(
    _rates(schedule, [109, 110], steps_per_epoch=100), [1.0, 0.5]
  )


def test_warmup_multiplies_every_shape():
  schedule = schedules.StepDecay(
    learning_rate=1.0, decay_epochs=(1.0,), factor=0.5, warmup_steps=20
  )
  np.testing.assert_allclose(
    _rates(schedule, [0, 9, 10, 20]), [0.0, 0.45, 0.25, 0.5], rtol=1e-6
  )


def test_learning_rate_scales_with_the_batch_size_only_if_asked():
  asked = schedules.Constant(learning_rate=5e-4, reference_batch_size=256)
  np.testing.assert_allclose(
    _rates(asked, [0], batch_size=1024), 2e-3, rtol=1e-6
  )
  unasked = schedules.Constant(learning_rate=5e-4)
  np.testing.assert_allclose(
    _rates(unasked, [0], batch_size=1024), 5e-4, rtol=1e-6
  )


def test_a_schedule_works_on_traced_steps():
  rate = schedules.Cosine(learning_rate=2.0, warmup_steps=1).make(
    batch_size=1, steps_per_epoch=1, num_steps=101
  )
  traced = jax.jit(rate)(jnp.int32(51))
  assert traced.dtype == jnp.float32
  assert traced == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
  ('schedule', 'message'),
  [
    (
      schedules.Constant(learning_rate=-1.0),
      'Constant.learning_rate must be finite and not negative, got -1.0',
    ),
    (
      schedules.Constant(learning_rate=float('nan')),
      'learning_rate must be finite',
    ),
    (
      schedules.Cosine(learning_rate=1.0, warmup_steps=-1),
      'Cosine.warmup_steps must not be negative, got -1',
    ),
    (
      schedules.Cosine(learning_rate=1.0, final_fraction=1.5),
      r'final_fraction must be in \[0, 1\], got 1.5',
    ),
    (
      schedules.FlatThenCosine(learning_rate=1.0, flat_fraction=-0.5),
      r'flat_fraction must be in \[0, 1\], got -0.5',
    ),
    (
      schedules.StepDecay(learning_rate=1.0, decay_epochs=(2, 2)),
      r'decay_epochs must be positive and increasing, got \(2.0, 2.0\)',
    ),
    (
      schedules.StepDecay(learning_rate=1.0, decay_epochs=(0,)),
      'decay_epochs must be positive and increasing',
    ),
    (
      schedules.StepDecay(learning_rate=1.0, decay_epochs=(1,), factor=10.0),
      r'StepDecay.factor must be in \[0, 1\], got 10.0',
    ),
    (
      schedules.Constant(learning_rate=1.0, reference_batch_size=0),
      'reference_batch_size must be at least 1 or None, got 0',
    ),
  ],
)
def test_validate_refuses_nonsense(schedule, message):
  with pytest.raises(ValueError, match=message):
    schedule.validate()


def test_make_refuses_a_warmup_longer_than_the_run():
  schedule = schedules.Constant(learning_rate=1.0, warmup_steps=101)
  with pytest.raises(ValueError, match=r'at most the 100 steps.*got 101'):
    _rates(schedule, [0])
  assert _rates(schedule, [101], num_steps=101) == 1.0


@pytest.mark.parametrize('name', ['batch_size', 'steps_per_epoch', 'num_steps'])
def test_make_refuses_an_empty_run(name):
  with pytest.raises(ValueError, match=f'{name} must be positive, got 0'):
    _rates(schedules.Constant(learning_rate=1.0), [0], **{name: 0})


def test_make_refuses_the_base_class():
  rate = schedules.Schedule(learning_rate=1.0)
  with pytest.raises(TypeError, match='must be one of the schedules'):
    _rates(rate, [0])
