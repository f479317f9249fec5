"""Bytes to images and sounds, and back. Only decoders that open nothing else are used, and what they would unpack to is bounded first."""

from __future__ import annotations

import io
import math
import wave
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hubwire_server.errors import HubwireError, Reason
from hubwire_server.pipelines import Blob

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that Pillow reads by itself; that of EPS, for one, starts another program."""
MAX_PIXELS = 50_000_000
"""What the images of an input may have together, 150 MB of memory: a file of a few hundred bytes can claim any size."""
MAX_SAMPLES = 115_200_000
"""What the sounds of an input may have together: two hours at 16 kHz."""
RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
"""The rates, in Hz, at which sounds are recorded, and those that are read. A caller could claim one that has nothing in common with the
model's, and the filter between two such rates has as many numbers as their product."""
MAX_KERNEL = 1_000_000
"""The numbers of a filter between two rates, of 8 bytes each. None of RATES needs more than 600,000 for another."""
MAX_DIMENSIONS = 32
"""Of an array that a caller sends."""
ARRAY_DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


class Allowance:
    """What the media of one input may still unpack to."""

    def __init__(self) -> None:
        self._pixels = MAX_PIXELS
        self._samples = MAX_SAMPLES

    def take_image(self, size: tuple[int, int]) -> None:
        """Counts an image. Raises HubwireError (MEDIA_INVALID) where there are too many pixels."""
        width, height = size
        if width * height > self._pixels:
            raise _invalid(f"the image has {width} x {height} pixels; at most {MAX_PIXELS} are read, in all images of an input together")
        self._pixels -= width * height

    def take_sound(self, samples: int) -> None:
        """Counts a sound. Raises HubwireError (MEDIA_INVALID) where there are too many samples."""
        if samples > self._samples:
            raise _invalid(f"the sound has {samples} samples; at most {MAX_SAMPLES} are read, in all sounds of an input together")
        self._samples -= samples

    def take_again(self, medium: Any) -> None:
        """Counts what has been unpacked once more, as what image, sound or array returned."""
        if isinstance(medium, Image.Image):
            self.take_image(medium.size)
        else:
            self.take_sound(len(medium["raw"]) if isinstance(medium, dict) else medium.size)


def image(blob: Blob, allowance: Allowance | None = None) -> Image.Image:
    """The image in a file. Raises HubwireError (MEDIA_INVALID)."""
    try:
        opened = Image.open(io.BytesIO(blob.data), formats=IMAGE_FORMATS)
    except Exception as error:
        # The decoders raise what they like over broken bytes, and DecompressionBombError over a size that Pillow itself refuses.
        raise _invalid(f"the bytes are no image of the formats {', '.join(IMAGE_FORMATS)}") from error
    (allowance or Allowance()).take_image(opened.size)
    try:
        opened.load()
    except Exception as error:
        raise _invalid("the image cannot be decoded: its bytes are broken or cut off") from error
    return opened


def sound(blob: Blob, sampling_rate: int, allowance: Allowance | None = None) -> dict[str, Any]:
    """The sound in a WAV file, mixed to one channel and resampled, as pipelines take it. Raises HubwireError (MEDIA_INVALID)."""
    try:
        with wave.open(io.BytesIO(blob.data)) as file:
            channels, width, rate, frames = file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()
            data = file.readframes(frames)
    except (wave.Error, EOFError, ValueError) as error:
        raise _invalid("the bytes are no WAV file with whole-number samples (PCM), the one format of sound that is read") from error
    if not (channels and rate and data):
        raise _invalid("the sound is empty")
    if rate not in RATES and rate != sampling_rate:
        raise _invalid(f"the sound has a rate of {rate} Hz; use {', '.join(map(str, RATES))}, or the model's own, {sampling_rate}")
    # WAV can hold less than it claims, and half a frame at its end.
    data = data[: len(data) // (channels * width) * channels * width]
    count = len(data) // (channels * width)
    (allowance or Allowance()).take_sound(max(count, math.ceil(count * sampling_rate / rate)))
    samples = _samples(data, width).reshape(-1, channels).mean(axis=1, dtype=np.float32)
    return {"raw": resample(samples, rate, sampling_rate), "sampling_rate": sampling_rate}


def array(blob: Blob) -> NDArray[Any]:
    """An array that a caller sent as bytes, in little-endian order. Raises HubwireError (MEDIA_INVALID)."""
    if blob.dtype not in ARRAY_DTYPES:
        raise _invalid(f"{blob.dtype[:32]!r} is no type of an array: use {', '.join(ARRAY_DTYPES)}")
    if len(blob.shape) > MAX_DIMENSIONS:
        raise _invalid(f"the array has {len(blob.shape)} dimensions; at most {MAX_DIMENSIONS} are read")
    dtype = np.dtype(blob.dtype).newbyteorder("<")
    if math.prod(blob.shape) * dtype.itemsize != len(blob.data):
        raise _invalid(f"an array of {blob.dtype} {list(blob.shape)} does not have {len(blob.data)} bytes")
    values: NDArray[Any] = np.frombuffer(blob.data, dtype).reshape(blob.shape).astype(blob.dtype)
    return values


def image_blob(picture: Image.Image) -> Blob:
    """An image as PNG; one of floating-point numbers, which PNG does not have, as an array."""
    if picture.mode == "F":
        return array_blob(np.asarray(picture))
    if picture.mode not in ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"):
        picture = picture.convert("RGB")
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return Blob(data=file.getvalue(), media_type="image/png")


def array_blob(values: NDArray[Any]) -> Blob:
    """An array as bytes, in little-endian order."""
    data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    return Blob(data=data, media_type="application/octet-stream", dtype=values.dtype.name, shape=values.shape)


def resample(samples: NDArray[np.float32], rate: int, new_rate: int) -> NDArray[np.float32]:
    """A sound at another rate: interpolation by a sinc with a Hann window of six zero crossings and a roll-off of 0.99, which is what
    torchaudio.functional.resample does by default. It takes memory in proportion to the samples. Raises HubwireError (MEDIA_INVALID) where
    the rates have too little in common."""
    common = math.gcd(rate, new_rate)
    old, new = rate // common, new_rate // common
    if old == new:
        return samples
    base = min(old, new) * 0.99
    width = math.ceil(6 * old / base)
    if new * (2 * width + old) > MAX_KERNEL:
        raise _invalid(f"a sound of {rate} Hz cannot be read at {new_rate} Hz: their ratio, {old}/{new}, is none of small numbers")
    times = np.arange(0, -new, -1)[:, None] / new + np.arange(-width, width + old)[None] / old
    times = np.clip(times * base, -6, 6)
    kernel = np.sinc(times) * np.cos(times * math.pi / 12) ** 2 * (base / old)
    padded = torch.from_numpy(np.pad(samples, (width, width + old)))[None, None]
    mixed = torch.nn.functional.conv1d(padded, torch.from_numpy(kernel.astype(np.float32))[:, None], stride=old)
    resampled: NDArray[np.float32] = mixed[0].T.reshape(-1)[: math.ceil(new * len(samples) / old)].numpy()
    return resampled


def _samples(data: bytes, width: int) -> NDArray[np.float32]:
    """PCM samples of 8 (unsigned), 16, 24 or 32 bits as numbers from -1 to 1."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if width == 3:  # numpy has no 24 bits: as the upper three bytes of 32
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return (wide.view("<i4")[:, 0] / np.float32(2**31)).astype(np.float32)
    if width in (2, 4):
        scaled: NDArray[np.float64] = np.frombuffer(data, f"<i{width}") / 2.0 ** (8 * width - 1)
        return scaled.astype(np.float32)
    raise _invalid(f"WAV samples of {8 * width} bits are not read")


def _invalid(text: str) -> HubwireError:
    return HubwireError(Reason.MEDIA_INVALID, text)
