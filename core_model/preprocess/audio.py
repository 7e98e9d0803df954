"""Sounds for the audio tower: 16 kHz, clips of two seconds, log mel filter banks as Kaldi has
them.

The filter bank is written from Kaldi's documented parameters and needs no torchaudio.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from anybind.content import Waveform
from anybind.core_model.preprocess.clips import clip_times
from anybind.errors import UserError
from anybind.optional import require

RATE = 16_000
"""Hertz."""
MEL_BINS = 128
FRAMES = 204
"""Columns of one clip; two seconds give 198, the rest is padding."""
MEAN, STD = -4.268, 9.138
"""Of the log filter banks (ImageBind, after AST, Gong et al. 2021)."""

_WINDOW, _SHIFT, _FFT = 400, 160, 512
_PREEMPHASIS = 0.97
_LOW = 20.0
_FLOOR = torch.finfo(torch.float32).eps


def fbank(wave: Tensor, *, mel_bins: int = MEL_BINS) -> Tensor:
    """Log mel filter banks of Kaldi's kind.

    Frames of 25 ms every 10 ms, edges left out; of each the mean is taken out, then pre-emphasis
    0.97, a symmetric Hann window, power spectrum of 512 points, triangles even on Kaldi's mel
    scale `1127 ln(1 + f / 700)` from 20 Hz to 8 kHz, and the log, no lower than that of 1.19e-7.

    Args:
        wave: float32 [T] at 16 kHz.
        mel_bins: Rows of the bank.

    Returns:
        float32 [1 + (T - 400) // 160, mel_bins]; no rows if T < 400.
    """
    if wave.shape[0] < _WINDOW:
        return wave.new_zeros(0, mel_bins)
    frames = wave.unfold(0, _WINDOW, _SHIFT)
    frames = frames - frames.mean(dim=1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - _PREEMPHASIS * before) * torch.hann_window(_WINDOW, periodic=False)
    spectrum = torch.fft.rfft(frames, n=_FFT).abs() ** 2
    return (spectrum @ _triangles(mel_bins)).clamp_min(_FLOOR).log()


@cache
@torch.inference_mode(False)
def _triangles(bins: int) -> Tensor:
    """Filters [257, bins]; the bin of the Nyquist frequency belongs to none."""
    low, high = _mel(_LOW), _mel(RATE / 2)
    step = (high - low) / (bins + 1)
    left = low + step * torch.arange(bins, dtype=torch.float32)
    mel = torch.tensor([_mel(i * RATE / _FFT) for i in range(_FFT // 2)])[:, None]
    up, down = (mel - left) / step, (left + 2 * step - mel) / step
    bank = torch.minimum(up, down).clamp_min(0.0)
    return torch.cat([bank, torch.zeros(1, bins)])


def _mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)


def resampled(wave: Waveform) -> Tensor:
    """The sound at 16 kHz, float32 [channels, T]; a copy.

    Resampled by soxr ("HQ"); the released code uses a windowed sinc of torchaudio, which differs
    near 8 kHz.
    """
    samples = wave.samples
    if wave.rate != RATE:
        soxr = require("soxr", "imagebind")
        samples = soxr.resample(samples.T, wave.rate, RATE, quality="HQ").T
    return torch.from_numpy(np.array(samples, dtype=np.float32, order="C"))


def audio_clips(
    wave: Waveform, *, clips: int = 3, seconds: float = 2.0, copy_clips: bool = False
) -> Tensor:
    """A sound as the audio encoder of ImageBind takes it.

    Of each clip the mean over all channels is taken out; the filter bank is that of the first
    channel. A clip is padded with zeros, or cut, to 204 columns *before* `MEAN` and `STD` are
    applied, so that padding comes out as 0.467.

    Args:
        wave: Mono, stereo or more channels, any rate.
        clips: Clips, even over the sound.
        seconds: Length of a clip.
        copy_clips: The released code takes the mean out in place, so that where clips overlap
            (sounds under 6 s) a later clip sees samples that an earlier one has shifted. The
            weights are used like that everywhere, so it is the default here; True takes each clip
            from the sound as it was.

    Returns:
        float32 [clips, 1, 128, 204].

    Raises:
        UserError: no samples, less than 25 ms, or samples that are not finite.
    """
    if wave.samples.ndim != 2 or wave.samples.size == 0:
        raise UserError("The sound is empty: it holds no samples (zero length).")
    samples = resampled(wave)
    if samples.shape[1] < _WINDOW:
        raise UserError(f"The sound lasts {1000 * wave.seconds:.1f} ms; 25 ms or more are needed.")
    if not torch.isfinite(samples).all():
        raise UserError("The sound holds samples that are not numbers (NaN or infinite).")
    made: list[Tensor] = []
    for start, end in clip_times(samples.shape[1] / RATE, seconds, clips):
        clip = samples[:, int(start * RATE) : int(end * RATE)]
        clip = clip - clip.mean() if copy_clips else clip.sub_(clip.mean())
        bank = fbank(clip[0]).T[:, :FRAMES]
        bank = torch.nn.functional.pad(bank, (0, FRAMES - bank.shape[1]))
        made.append(((bank - MEAN) / STD)[None])
    return torch.stack(made)
