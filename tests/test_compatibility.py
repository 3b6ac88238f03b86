import pytest

from perceiver_jax.training import compatibility

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
