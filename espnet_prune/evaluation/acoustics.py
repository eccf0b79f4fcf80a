"""Distance of speech to a recording of the same text: MCD and log-F0 RMSE.

Both recordings are analysed by WORLD every 5 ms, and aligned by dynamic time warping of
their mel-cepstra. The mel-cepstral distortion is 10 / ln 10 * sqrt(2 * sum of squared
differences of the coefficients 1 to 24), in dB, and the root mean square error of the
logarithmic F0 counts the pairs of frames in which both are voiced; both are means over
the path of the alignment.
"""

from typing import NamedTuple

import numpy as np

FRAME = 5.0  # ms
ORDER = 24  # coefficients of the mel-cepstrum, without 0, which is the level
WARPING = 0.42  # alpha, which approximates the mel scale at 16 kHz


class Analysis(NamedTuple):
    """Mel-cepstrum without coefficient 0 (T, ORDER); F0 in Hz, 0 if unvoiced (T,)."""

    cepstrum: np.ndarray
    f0: np.ndarray


def analyse(wave: np.ndarray, rate: int) -> Analysis:
    """Analyse mono speech (T_wav,) at ``rate`` Hz by WORLD."""
    import pyworld

    samples = wave.astype(np.float64)
    f0, times = pyworld.dio(samples, rate, frame_period=FRAME)
    f0 = pyworld.stonemask(samples, f0, times, rate)
    power = pyworld.cheaptrick(samples, f0, times, rate)
    return Analysis(mel_cepstrum(power)[:, 1:], f0)


def mel_cepstrum(
    power: np.ndarray, order: int = ORDER, warping: float = WARPING
) -> np.ndarray:
    """Return the mel-cepstrum (T, order + 1) of power spectra (T, 1 + n_fft / 2).

    The logarithmic spectrum on a warped frequency axis is the cosine series of the
    mel-cepstrum. The axis is that of an all-pass filter of first order, whose alpha is
    ``warping``.
    """
    warped = np.linspace(0, np.pi, power.shape[1])
    turn = np.arctan2(warping * np.sin(warped), 1 + warping * np.cos(warped))
    places = (warped - 2 * turn) / np.pi * (power.shape[1] - 1)
    below = np.clip(places.astype(int), 0, power.shape[1] - 2)
    share = places - below
    log_power = np.log(np.maximum(power, 1e-12))
    log_power = (1 - share) * log_power[:, below] + share * log_power[:, below + 1]
    cepstrum = np.fft.irfft(log_power)[:, : order + 1]
    cepstrum[:, 0] /= 2
    return cepstrum


def align(first: Analysis, second: Analysis) -> tuple[np.ndarray, np.ndarray]:
    """Return the frames of two analyses that dynamic time warping makes pairs of."""
    from librosa.sequence import dtw

    _, path = dtw(first.cepstrum.T, second.cepstrum.T, metric="euclidean")
    return path[::-1, 0], path[::-1, 1]


def cepstral_distortion(first: Analysis, second: Analysis) -> float:
    """Return the mel-cepstral distortion in dB."""
    a, b = align(first, second)
    squares = np.square(first.cepstrum[a] - second.cepstrum[b]).sum(axis=1)
    return float(10 / np.log(10) * np.sqrt(2 * squares).mean())


def f0_error(first: Analysis, second: Analysis) -> float | None:
    """Return the RMSE of the natural logarithm of F0; None without voiced pairs."""
    a, b = align(first, second)
    f0_a, f0_b = first.f0[a], second.f0[b]
    voiced = (f0_a > 0) & (f0_b > 0)
    if not voiced.any():
        return None
    difference = np.log(f0_a[voiced]) - np.log(f0_b[voiced])
    return float(np.sqrt(np.square(difference).mean()))
