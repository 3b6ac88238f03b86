"""The published models of optical flow; [2]: see the package."""

from perceiver_jax.modalities.flow import FlowInput, FlowOutput
from perceiver_jax.model import AttentionDecoder, PerceiverConfig
from perceiver_jax.nn.blocks import CrossAttendConfig, SelfAttendConfig


def perceiver_io_optical_flow(*, is_light: bool = False) -> PerceiverConfig:
  """Describes optical flow between two frames of 368 x 496 pixels.

  Frames have values in [-1, 1]; the outputs are in pixels. Every pixel is a
  token, and again a query.

  Parameters: 41,057,134; light: 27,908,974.
  FLOPs: 1,886,745,225,216; light: 985,517,221,888.
  [2] prints 27.9 million and 987 billion, which are nearly those of the light
  model, whereas its results and the published weights are those of the other.
  Result: end-point error 1.81 on Sintel.clean, 2.42 on Sintel.final, 4.98 on
  KITTI. Of the light model none is printed at full resolution.
  Source: [2] section 4.2, table 16, appendix H; the published notebook
  `optical_flow`.

  Args:
    is_light: 16 self-attends and 1,024 latents in place of 24 and 2,048.
  """
  return PerceiverConfig(
    inputs=FlowInput(),
    outputs=FlowOutput(),
    num_latents=1024 if is_light else 2048,
    latent_channels=512,
    num_blocks=1,
    num_self_attends_per_block=16 if is_light else 24,
    self_attend=SelfAttendConfig(num_heads=16),
    decoder=AttentionDecoder(
      query_channels=None,
      cross_attend=CrossAttendConfig(use_query_residual=False),
    ),
  )
