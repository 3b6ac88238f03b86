import importlib.metadata
import os

import pytest

from perceiver_jax.xla_flags import set_cpu_flags

FLAG = '--xla_cpu_experimental_ynn_fusion_type'


@pytest.mark.parametrize(
  ('version', 'before', 'after'),
  [
    ('0.10.2', '', f'{FLAG}='),
    ('0.12.0', '--xla_dump_to=x', f'--xla_dump_to=x {FLAG}='),
    ('0.10.2', f'{FLAG}=dot', f'{FLAG}=dot'),
    ('0.13.0', '--xla_dump_to=x', '--xla_dump_to=x'),
  ],
)
def test_flag_is_added_where_it_is_known_and_not_set(
  version, before, after, monkeypatch
):
  monkeypatch.setenv('XLA_FLAGS', before)
  monkeypatch.setattr(importlib.metadata, 'version', lambda name: version)
  set_cpu_flags()
  assert os.environ['XLA_FLAGS'] == after
