import io

from perceiver_jax.progress import Progress


class _Terminal(io.StringIO):
  def isatty(self):
    return True


class _Clock:
  def __init__(self):
    self.secs = 100.0

  def __call__(self):
    return self.secs


def _run(stream, updates, num_steps=100, **kwargs):
  """Shows `updates`, pairs of seconds and step, with 8 examples a step."""
  clock = _Clock()
  with Progress(num_steps, 8, stream=stream, clock=clock, **kwargs) as progress:
    for secs, step in updates:
      clock.secs = 100.0 + secs
      progress.update(step, {'loss': 1 / step})
  return stream.getvalue()


def test_a_log_shows_speed_and_time_left():
  lines = _run(io.StringIO(), [(0, 1), (60, 4)]).splitlines()
  # 3 steps in 60 s are 0.4 examples/s; 96 steps of 20 s are left.
  assert lines == [
    'step 1/100 (1%)  loss 1',
    'step 4/100 (4%)  loss 0.25  0.4 examples/s  0:32:00 left',
  ]


def test_speed_is_told_in_the_unit_of_the_work():
  text = _run(io.StringIO(), [(0, 10), (100, 20)], unit='tiles')
  assert '0.8 tiles/s' in text


def test_time_left_has_hours():
  text = _run(io.StringIO(), [(0, 10), (100, 20)], num_steps=1000)
  assert '0.8 examples/s  2:43:20 left' in text


def test_a_log_stays_calm_but_shows_the_end():
  updates = [(step / 10, step) for step in range(1, 101)]
  lines = _run(io.StringIO(), updates).splitlines()
  assert [line.split()[1] for line in lines] == ['1/100', '100/100']
  assert lines[-1].endswith('0:00:00 left')


def test_a_terminal_rewrites_one_line():
  text = _run(_Terminal(), [(0, 1), (0.1, 2), (10, 3)])
  assert text.count('\r') == 2
  assert text.count('\n') == 1
  assert text.endswith('\n')
  assert '2/100' not in text


def test_a_line_fits_the_terminal(monkeypatch):
  monkeypatch.setenv('COLUMNS', '20')
  text = _run(_Terminal(), [(0, 1), (10, 3)])
  shown = text.replace('\x1b[K', '').strip().split('\r')
  assert [len(line) for line in shown] == [19, 19]


def test_metrics_stay_until_new_ones_come():
  stream = io.StringIO()
  clock = _Clock()
  progress = Progress(10, 1, stream=stream, clock=clock)
  progress.update(1, {'loss': 0.5})
  clock.secs += 60
  progress.update(2)
  assert (
    stream.getvalue().splitlines()[1].startswith('step 2/10 (20%)  loss 0.5  ')
  )


def test_only_the_primary_process_shows_progress():
  assert _run(_Terminal(), [(0, 1), (60, 4)], is_primary=False) == ''
