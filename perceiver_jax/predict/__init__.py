"""Trained models applied to what a person has: images, text, video, sound.

The functions take plain arrays and strings; `python -m perceiver_jax.predict`
takes files. They need the extra `[predict]`.
"""

try:
  # All of the extra, lest what `[train]` lacks of it is missed only later.
  import cv2 as _cv2  # noqa: F401
  import imageio_ffmpeg as _imageio_ffmpeg  # noqa: F401
  import matplotlib as _matplotlib  # noqa: F401
except ModuleNotFoundError as error:
  # In this name, `python -m` shows one line instead of a traceback.
  raise ModuleNotFoundError(
    "perceiver_jax.predict needs the extra [predict], pip install '.[predict]' "
    f'where the package lies: {error}',
    name=__name__,
  ) from error

from perceiver_jax.predict.attention import image_attention as image_attention
from perceiver_jax.predict.autoencoding import Reconstruction as Reconstruction
from perceiver_jax.predict.autoencoding import autoencode as autoencode
from perceiver_jax.predict.classification import Prediction as Prediction
from perceiver_jax.predict.classification import classify as classify
from perceiver_jax.predict.flow import estimate_flow as estimate_flow
from perceiver_jax.predict.images import Colours as Colours
from perceiver_jax.predict.language import FilledText as FilledText
from perceiver_jax.predict.language import fill_mask as fill_mask
from perceiver_jax.predict.listening import Heard as Heard
from perceiver_jax.predict.listening import clip_attention as clip_attention
from perceiver_jax.predict.listening import listen as listen
from perceiver_jax.predict.recordings import ClipFormat as ClipFormat
from perceiver_jax.predict.recordings import Clips as Clips
from perceiver_jax.predict.recordings import Recording as Recording
from perceiver_jax.predict.recordings import clip_format as clip_format
from perceiver_jax.predict.recordings import cut as cut
