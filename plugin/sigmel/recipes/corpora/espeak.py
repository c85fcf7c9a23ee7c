"""Speech from eSpeak NG, through the shared library inside the `espeakng-loader` wheel.

eSpeak NG (https://github.com/espeak-ng/espeak-ng) is a small formant synthesiser: a hundred speakers, a hundred
languages, no network and no model. It sounds like a machine, but a recogniser can be trained on it.

The C library keeps the state of its oscillators and its random numbers in globals that nothing resets, so the second
time a text is spoken it comes out slightly different. Each `EspeakVoice` therefore loads the library afresh
(about 2 ms): what a voice says depends on its arguments and on what it said before, and on nothing else. For the same
reason a process can hold only one voice at a time, and threads must not share a voice.
"""

from __future__ import annotations

import _ctypes
import ctypes
import functools
import os
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sigmel.errors import SigmelError, optional_library
from sigmel.files.resampling import resample

SAMPLE_RATE = 22050
SILENCE = "sil"

# Constants of espeak-ng/speak_lib.h.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_PHONEME_EVENTS = 0x0001
_INITIALIZE_PHONEME_IPA = 0x0002
_INITIALIZE_DONT_EXIT = 0x8000
_EVENT_LIST_TERMINATED = 0
_EVENT_PHONEME = 7
_POS_CHARACTER = 1
_CHARS_UTF8 = 1
_PHONEMES = 0x100
_PARAMETERS = {"speed": (1, 80, 450), "pitch": (3, 0, 100), "pitch_range": (4, 0, 100)}
_STRESS = str.maketrans("", "", "ˈˌ")


class _Event(ctypes.Structure):
    """espeak_EVENT; its last field is a union that holds the name of a phoneme in UTF-8."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("string", ctypes.c_char * 8),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))

# These two speakers never repeat themselves, not even in a library loaded afresh.
_UNREPEATABLE = {"Reed", "caleb"}


class Phone(NamedTuple):
    """What is spoken from `start` to `end`, in seconds: a phone in IPA without its stress, or `SILENCE`."""

    start: float
    end: float
    label: str


class Spoken(NamedTuple):
    """Speech: float32 samples in [-1, 1], shape (samples,), and its phones, from the first sample to the last."""

    samples: np.ndarray
    phones: list[Phone]


class EspeakVoice:
    """A speaker with a manner of speaking, for a `with` statement.

    Args:
        voice: a language and, after a plus sign, a variant (the speaker), such as `en-us+f3`;
            see `languages`, `english_voices` and `variants`.
        speed: words a minute, 80 to 450.
        pitch: 0 (low) to 100 (high).
        pitch_range: 0 (monotone) to 100.
        sample_rate: of the speech, in Hz.

    Raises:
        SigmelError: the wheel is missing, the voice is unknown or a setting is out of range.
    """

    _open = False  # whether some voice of this process is in use

    def __init__(
        self,
        voice: str = "en-us",
        speed: int = 175,
        pitch: int = 50,
        pitch_range: int = 50,
        sample_rate: int = SAMPLE_RATE,
    ) -> None:
        language, plus, variant = voice.partition("+")
        if language not in languages() or (plus and variant not in variants()):
            known = "a voice is a language such as 'en-us', alone or with a variant: 'en-us+f3'"
            raise SigmelError(f"espeak: no voice {voice!r}; {known}")
        self.voice, self.sample_rate = voice, sample_rate
        self._settings = {"speed": speed, "pitch": pitch, "pitch_range": pitch_range}
        for name, value in self._settings.items():
            _, low, high = _PARAMETERS[name]
            if not low <= value <= high:
                raise SigmelError(f"espeak: {name}={value} is outside {low} to {high}")

    def __enter__(self) -> EspeakVoice:
        if EspeakVoice._open:
            raise RuntimeError("espeak: another voice of this process is in use; leave its `with` block first")
        self._library = ctypes.CDLL(_loader().get_library_path())
        rate = self._library.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS,
            0,
            str(_data_path().parent).encode(),
            _INITIALIZE_PHONEME_EVENTS | _INITIALIZE_PHONEME_IPA | _INITIALIZE_DONT_EXIT,
        )
        if rate != SAMPLE_RATE:
            raise SigmelError(f"espeak: cannot start with the data in {_data_path()} (sample rate {rate})")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self._blocks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._collect)  # kept: the library holds no more than a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)
        if self._library.espeak_SetVoiceByName(self.voice.encode()) != 0:
            raise SigmelError(f"espeak: cannot load the voice {self.voice!r} from {_data_path()}")
        for name, value in self._settings.items():
            self._library.espeak_SetParameter(_PARAMETERS[name][0], int(value), 0)
        EspeakVoice._open = True
        return self

    def __exit__(self, *_: object) -> None:
        self._library.espeak_Terminate()
        getattr(_ctypes, "FreeLibrary" if os.name == "nt" else "dlclose")(self._library._handle)
        EspeakVoice._open = False

    def say(self, text: str) -> np.ndarray:
        """The samples of `speak`."""
        return self.speak(text).samples

    def speak(self, text: str) -> Spoken:
        """Speak a text, and tell when each phone is spoken.

        Args:
            text: plain text; `[[...]]` holds phonemes in eSpeak's own notation.

        Raises:
            SigmelError: eSpeak refused the text.
        """
        self._blocks.clear()
        self._starts = [(0, SILENCE)]  # of phones, in samples
        data = text.encode() + b"\0"
        status = self._library.espeak_Synth(
            data, ctypes.c_size_t(len(data)), 0, _POS_CHARACTER, 0, _CHARS_UTF8 | _PHONEMES, None, None
        )
        if status != 0:
            raise SigmelError(f"espeak: voice {self.voice!r} could not speak {text!r} (status {status})")
        samples = np.concatenate([np.zeros(0, np.int16), *self._blocks]).astype(np.float32) / 32768
        phones = [
            Phone(start / SAMPLE_RATE, end / SAMPLE_RATE, label)
            for (start, label), (end, _) in pairwise([*self._starts, (len(samples), SILENCE)])
            if start < end
        ]
        if self.sample_rate != SAMPLE_RATE:
            samples = resample(samples, SAMPLE_RATE, self.sample_rate)
        return Spoken(samples, phones)

    def _collect(self, samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        for event in events:  # a C array: it does not end by itself
            if event.type == _EVENT_LIST_TERMINATED:
                break
            if event.type == _EVENT_PHONEME:
                label = event.string.decode(errors="ignore").translate(_STRESS) or SILENCE
                still_silent = label == self._starts[-1][1] == SILENCE
                if not still_silent and not label.startswith("("):  # "(de)": the language changes
                    self._starts.append((event.sample, label))
        return 0  # go on


def english_voices() -> tuple[str, ...]:
    """The accents of English, such as `en-us` and `en-gb-scotland`, except that of the Shavian alphabet; sorted."""
    return tuple(name for name in languages() if name == "en" or (name.startswith("en-") and name != "en-shaw"))


@functools.cache
def languages() -> tuple[str, ...]:
    """All languages and accents of eSpeak NG, each a voice by itself; sorted."""
    return tuple(sorted(file.name.lower() for file in (_data_path() / "lang").rglob("*") if file.is_file()))


@functools.cache
def variants() -> tuple[str, ...]:
    """The speakers that any language can be given, such as `f3` and `grandpa`; sorted."""
    files = (_data_path() / "voices" / "!v").iterdir()
    return tuple(sorted(file.name for file in files if file.is_file() and file.name not in _UNREPEATABLE))


def _loader() -> Any:
    return optional_library("espeakng_loader", "voices of eSpeak need", "pip install 'sigmel[espeak]'")


def _data_path() -> Path:
    return Path(_loader().get_data_path())
