"""Speech from eSpeak NG: repeatable, and its settings do what they say."""

import sys
from itertools import pairwise

import numpy as np
import pytest

from sigmel.errors import SigmelError
from sigmel.recipes.corpora import espeak
from sigmel.recipes.corpora.espeak import EspeakVoice, english_voices, languages, variants


def synthesize(text, voice="en-us", **settings):
    with EspeakVoice(voice, **settings) as speaker:
        return speaker.say(text)


def test_voices():
    assert {"en", "en-us", "en-029", "en-gb-scotland", "en-us-nyc"} <= set(english_voices()) <= set(languages())
    assert "en-shaw" not in english_voices()
    assert len(variants()) > 90
    assert {"f3", "m1"} <= set(variants())


@pytest.mark.parametrize("voice", ["en-us", "en+whisper", "en-gb-scotland+f2", "de+m3"])
def test_same_text_same_samples(voice):
    first = synthesize("turn on the light", voice)
    synthesize("something else", "en-us+f5", pitch=80)
    np.testing.assert_array_equal(synthesize("turn on the light", voice), first)
    assert first.dtype == np.float32
    assert 0.05 < np.abs(first).max() <= 1.0
    assert 0.5 < len(first) / espeak.SAMPLE_RATE < 2.5


def test_variant_and_text_matter():
    samples = synthesize("one", "en-us+m1")
    assert not np.array_equal(samples, synthesize("one", "en-us+f1"))
    assert len(synthesize("one two three", "en-us+m1")) > 1.5 * len(samples)


def test_speed_and_pitch():
    text = "a long sentence about nothing"
    assert len(synthesize(text, speed=100)) > 1.5 * len(synthesize(text, speed=250))
    low, high = (_pitch(synthesize("aaah", pitch=pitch, pitch_range=0)) for pitch in (10, 90))
    assert high > 1.3 * low


def _pitch(samples):
    middle = samples[len(samples) // 3 :][:2048]
    correlation = np.correlate(middle, middle, "full")[2047:]
    return espeak.SAMPLE_RATE / (50 + np.argmax(correlation[50:500]))


def test_phonemes_and_markup():
    assert len(synthesize("[[h@l'oU]]")) > 5000
    assert len(synthesize("x < y")) > 5000  # no SSML: nothing is swallowed


def test_a_voice_says_several_things():
    with EspeakVoice("en-us+m2") as voice:
        parts = [voice.say(word) for word in ("one", "two")]
    assert all(len(part) > 2000 for part in parts)


@pytest.mark.parametrize("voice", ["en-us", "en-gb-scotland+f2", "de+m3"])
def test_phones_follow_each_other_from_the_first_sample_to_the_last(voice):
    with EspeakVoice(voice) as speaker:
        for text in ("Turn on, please.", "six"):
            samples, phones = speaker.speak(text)
            assert (phones[0].start, phones[-1].end) == (0, len(samples) / espeak.SAMPLE_RATE)
            assert all(before.end == after.start for before, after in pairwise(phones))
            assert all(phone.start < phone.end for phone in phones)
            assert not any(before.label == after.label == espeak.SILENCE for before, after in pairwise(phones))


def test_phones_are_what_is_said_when_it_is_said():
    """Of this voice, sibilants cross zero often, vowels seldom, and silence is silent."""
    with EspeakVoice("en-us") as speaker:
        samples, phones = speaker.speak("she sees six seas, a messy house is busy")
    labels = [phone.label for phone in phones if phone.label != espeak.SILENCE]
    assert "".join(labels).startswith("ʃiːsiːzsɪks")
    crossings = {"sʃ": [], "iɛɪa": []}
    for start, end, label in phones:
        part = samples[int(start * espeak.SAMPLE_RATE) : int(end * espeak.SAMPLE_RATE)]
        if label == espeak.SILENCE:
            assert np.abs(part).max() < 0.01
            continue
        for kind, found in crossings.items():
            if label[0] in kind:
                found.append(np.mean(part[1:] * part[:-1] < 0))
    assert min(crossings["sʃ"]) > 1.5 * max(crossings["iɛɪa"])


@pytest.mark.parametrize("voice", ["xx", "en-us+nobody", "", "en+"])
def test_unknown_voice(voice):
    with pytest.raises(SigmelError, match=f"no voice '{voice}'".replace("+", r"\+")):
        synthesize("one", voice)
    assert len(synthesize("one"))  # and the next one works


@pytest.mark.parametrize("setting", [{"speed": 10}, {"pitch": 101}, {"pitch_range": -1}])
def test_setting_out_of_range(setting):
    with pytest.raises(SigmelError, match=next(iter(setting))):
        synthesize("one", **setting)


def test_one_at_a_time():
    with EspeakVoice(), pytest.raises(RuntimeError, match="in use"), EspeakVoice():
        pass
    assert len(synthesize("one"))


def test_without_the_wheel(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(SigmelError, match=r"sigmel\[espeak\]"):
        synthesize("one")
