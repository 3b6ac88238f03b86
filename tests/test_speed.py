"""The speed of a run is what a clock, a batch size and a formula say."""

import importlib
import types

import jax
import numpy as np
import psutil
import pytest
import tiny_job

from perceiver_jax import count_flops
from perceiver_jax.data.prefetch import prefetch
from perceiver_jax.model import Precision
from perceiver_jax.training import speed
from perceiver_jax.training.job import make_job
from perceiver_jax.training.peak_flops import peak_flops
from perceiver_jax.training.speed import Speedometer

pytestmark = pytest.mark.usefixtures('fast_compilation')


@pytest.fixture
def clock():
  return types.SimpleNamespace(now=100.0)


@pytest.fixture
def batches():
  with prefetch(iter(range(3)), lambda item: item) as batches:
    yield batches


def _speedometer(digits_dir, batches, clock):
  job = make_job(tiny_job.tiny_config(digits_dir))
  return Speedometer(job, batches, clock=lambda: clock.now)


def test_speed_is_that_between_two_looks(digits_dir, batches, clock):
  meter = _speedometer(digits_dir, batches, clock)
  meter.restart(3)
  clock.now += 2.0
  batches.wait_secs += 0.5
  read = meter.read(13)
  assert read['steps_per_sec'] == 5.0
  assert read['examples_per_sec'] == 5.0 * 16
  assert read['examples_per_sec_per_device'] == 5.0 * 16 / jax.device_count()
  assert read['data_wait_fraction'] == 0.25
  clock.now += 10.0
  meter.restart(13)
  clock.now += 1.0
  read = meter.read(14)
  assert (read['steps_per_sec'], read['data_wait_fraction']) == (1.0, 0.0)
  assert meter.read(14) == {}


def test_flops_are_three_times_those_forward(
  digits_dir, batches, clock, monkeypatch
):
  monkeypatch.setattr(speed, 'peak_flops', lambda kind, precision: 1e9)
  config = tiny_job.tiny_config(digits_dir)
  images = jax.ShapeDtypeStruct((1, 8, 8, 1), np.float32)
  forward = count_flops(config.model, images)
  meter = _speedometer(digits_dir, batches, clock)
  meter.restart(0)
  clock.now += 4.0
  read = meter.read(1)
  expected = 3 * forward * 16 / 4.0 / jax.device_count()
  np.testing.assert_allclose(read['flops_per_sec_per_device'], expected)
  np.testing.assert_allclose(read['peak_flops_fraction'], expected / 1e9)


def test_share_of_an_unknown_peak_is_left_out(digits_dir, batches, clock):
  meter = _speedometer(digits_dir, batches, clock)
  meter.restart(0)
  clock.now += 1.0
  assert 'peak_flops_fraction' not in meter.read(1)


@pytest.mark.parametrize(
  ('kind', 'precision', 'products', 'tera'),
  [
    ('TPU v3', Precision.BFLOAT16, None, 61.5),
    ('TPU v5 lite', Precision.FLOAT32, None, 197),
    ('TPU v5 lite', Precision.FLOAT32, 'highest', None),
    ('TPU v6 lite', Precision.BFLOAT16, 'highest', 918),
    ('TPU7x', Precision.BFLOAT16, None, 1153.5),
    ('NVIDIA A100-SXM4-40GB', Precision.FLOAT32, None, 156),
    ('NVIDIA A100-SXM4-40GB', Precision.FLOAT32, 'highest', 19.5),
    ('NVIDIA H100 80GB HBM3', Precision.FLOAT16, None, 989.5),
    ('NVIDIA H100 80GB HBM3 MIG 1g.10gb', Precision.BFLOAT16, None, None),
    ('NVIDIA H200', Precision.FLOAT32, 'BF16_BF16_F32_X3', None),
    ('cpu', Precision.FLOAT32, None, None),
  ],
)
def test_peak_is_that_of_device_and_precision(kind, precision, products, tera):
  with jax.default_matmul_precision(products):
    peak = peak_flops(kind, precision)
  assert peak == (tera and tera * 1e12)


def test_prefetch_measures_how_long_its_consumer_waited(monkeypatch):
  times = iter([0.0, 2.5, 10.0, 11.0])
  module = importlib.import_module('perceiver_jax.data.prefetch')
  fake = types.SimpleNamespace(monotonic=lambda: next(times))
  monkeypatch.setattr(module, 'time', fake)
  with prefetch(iter(range(2)), lambda item: item) as items:
    next(items)
    assert items.wait_secs == 2.5
    next(items)
    assert items.wait_secs == 3.5


def test_memory_is_that_of_the_process_and_of_the_fullest_device(monkeypatch):
  stats = [
    {'bytes_in_use': 2**30, 'peak_bytes_in_use': 2**32},
    {'bytes_in_use': 2**31, 'peak_bytes_in_use': 2**31},
    None,
  ]
  devices = [
    types.SimpleNamespace(memory_stats=lambda stat=stat: stat) for stat in stats
  ]
  monkeypatch.setattr(jax, 'local_devices', lambda: devices)
  memory = speed.memory()
  resident = psutil.Process().memory_info().rss / 2**30
  assert 0.9 * resident < memory.pop('host_memory_gib') < 50.0
  assert memory == {'device_memory_gib': 2.0, 'peak_device_memory_gib': 4.0}
