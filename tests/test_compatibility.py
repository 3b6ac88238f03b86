import pytest
import tiny_job

from perceiver_jax.training import compatibility
from perceiver_jax.training.job import abstract_state, make_job
from perceiver_jax.training.loss_scaling import LossScaling
from perceiver_jax.training.optimizers import Lamb, Sgd
from perceiver_jax.training.schedules import Constant

_MODEL = {
  'class': 'PerceiverConfig',
  'latents': {'class': 'Latents', 'num_latents': 512, 'channels': 1024},
  'axes': [2, 3],
}


def test_an_equal_config_is_accepted():
  same = {'axes': (2, 3), **{k: v for k, v in _MODEL.items() if k != 'axes'}}
  compatibility.check_config(_MODEL, same, workdir='runs/a')


def test_a_config_that_differs_is_refused_by_dotted_path():
  current = {
    'class': 'OtherConfig',
    'latents': {'class': 'Latents', 'num_latents': 256, 'scale': 0.02},
    'axes': [2, 4, 5],
  }
  with pytest.raises(ValueError, match='runs/a was written with') as error:
    compatibility.check_config(_MODEL, current, workdir='runs/a')
  assert str(error.value).splitlines()[1:] == [
    "  class: saved 'PerceiverConfig', now 'OtherConfig'",
    '  latents.num_latents: saved 512, now 256',
    '  latents.channels: saved 1024, now nothing',
    '  axes.1: saved 3, now 4',
    '  latents.scale: saved nothing, now 0.02',
    '  axes.2: saved nothing, now 5',
  ]


def test_how_a_model_is_computed_may_differ():
  saved = {'precision': {'enum': 'FLOAT32'}, 'attend': {'remat': False}}
  current = {'precision': {'enum': 'BFLOAT16'}, 'attend': {'remat': True}}
  compatibility.check_config(saved, current, workdir='w')
  # But it is said.
  differences = compatibility.config_differences(saved, current)
  assert 'attend.remat: saved False, now True' in differences


def test_a_changed_type_is_a_difference():
  with pytest.raises(ValueError, match='a: saved 1, now True'):
    compatibility.check_config({'a': 1}, {'a': True}, workdir='w')


def test_an_empty_list_differs_from_a_missing_one():
  with pytest.raises(ValueError, match=r'a: saved \[\], now nothing'):
    compatibility.check_config({'a': []}, {}, workdir='w')


def test_a_long_list_of_differences_is_cut():
  saved = {f'field_{i}': i for i in range(25)}
  with pytest.raises(ValueError, match='and 5 more') as error:
    compatibility.check_config(saved, {}, workdir='w')
  assert len(str(error.value).splitlines()) == 1 + 20 + 1


_OPTIMIZER = 'optimizer'
_MEAN = 'running mean of the parameters (ema_decay)'
_SCALE = 'scale of the loss (loss_scaling)'


@pytest.mark.parametrize(
  ('fields', 'subject'),
  [
    ({'optimizer': Sgd(schedule=Constant(learning_rate=0.1))}, _OPTIMIZER),
    ({'optimizer': Lamb(schedule=Constant(learning_rate=0.1))}, _OPTIMIZER),
    ({'ema_decay': 0.5}, _MEAN),
    ({'loss_scaling': LossScaling()}, _SCALE),
    (
      {'loss_scaling': LossScaling(), 'ema_decay': 0.5},
      f'{_MEAN} and {_SCALE}',
    ),
    ({'shard_optimizer_state': True}, None),
  ],
)
def test_a_run_that_keeps_something_else_is_refused_by_its_name(
  digits_dir, fields, subject
):
  saved, now = (
    compatibility.spelled_arrays(
      abstract_state(make_job(tiny_job.tiny_config(digits_dir, **changed)))
    )
    for changed in ({}, fields)
  )
  for one, other in ((saved, now), (now, saved)):
    if subject is None:
      compatibility.check_arrays(one, other, source='w')
      continue
    with pytest.raises(ValueError) as error:
      compatibility.check_arrays(one, other, source='w')
    assert f'w must have the same {subject} as this run' in str(error.value)
