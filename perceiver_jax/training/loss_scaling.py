"""Loss scaling: keeps gradients of float16 from becoming zero."""

from typing import NamedTuple

import jax.numpy as jnp
import jmp
from jaxtyping import Array, Bool, Float, Int

from perceiver_jax.config import Config


class LossScale(NamedTuple):
  """The scale at a step.

  Attributes:
    scale: what the loss is multiplied with, and its gradient divided by.
    num_finite: updates since it changed.
  """

  scale: Float[Array, '']
  num_finite: Int[Array, '']


class LossScaling(Config):
  """A scale as large as the gradients bear it.

  A gradient that overflows halves it, and the update is skipped; `period_steps`
  updates in a row that do not double it.

  Source: Micikevicius et al. (arXiv 1710.03740).

  Attributes:
    initial_scale: the first scale, at least 1; a power of 2 changes no digit.
    period_steps: see above.
  """

  initial_scale: float = 2.0**15
  period_steps: int = 2000

  def validate(self) -> None:
    super().validate()
    self._validate_at_least(1, 'initial_scale', 'period_steps')

  def init(self) -> LossScale:
    """Returns the scale of the first update."""
    return LossScale(
      jnp.asarray(self.initial_scale, jnp.float32), jnp.zeros((), jnp.int32)
    )

  def adjust(self, state: LossScale, is_finite: Bool[Array, '']) -> LossScale:
    """Returns the scale of the next update.

    Args:
      state: that of this one.
      is_finite: whether its gradients were.
    """
    scale = jmp.DynamicLossScale(*state, period=self.period_steps)
    scale = scale.adjust(is_finite)
    return LossScale(scale.loss_scale, scale.counter)
