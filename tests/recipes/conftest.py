"""Made-up corpora that recipes can be given."""

from pathlib import Path

import numpy as np
import pytest

from sigmel.data.audio import write_wav


@pytest.fixture(scope="session")
def make_digits(tmp_path_factory):
    """Function that makes recordings named as those of the Free Spoken Digit Dataset, by {speaker: pitch}.

    Digit d of a speaker is a tone of its own in a little noise, index i (0 to 11) a little louder.
    """

    def make(speakers: dict[str, float]) -> Path:
        folder = tmp_path_factory.mktemp("fsdd") / "recordings"
        folder.mkdir()
        rng = np.random.default_rng(0)
        for speaker, height in speakers.items():
            for digit in range(10):
                for index in range(12):
                    time = np.arange(int(rng.integers(1200, 3600))) / 8000
                    tone = (0.2 + 0.01 * index) * np.sin(2 * np.pi * height * (200 + 100 * digit) * time)
                    noise = 1e-3 * rng.standard_normal(len(time) + 1600)
                    noise[800:-800] += tone
                    write_wav(folder / f"{digit}_{speaker}_{index}.wav", noise, 8000)
        return folder.parent

    return make


@pytest.fixture(scope="session")
def ljspeech(tmp_path_factory):
    """Twelve tones as LJSpeech has its clips: a list, and recordings at 22.05 kHz."""
    folder = tmp_path_factory.mktemp("ljspeech")
    (folder / "wavs").mkdir()
    lines, rng = [], np.random.default_rng(0)
    for number in range(1, 13):
        time = np.arange(int(rng.integers(11025, 22050))) / 22050
        write_wav(folder / f"wavs/LJ001-{number:04}.wav", 0.3 * np.sin(2 * np.pi * 100 * number * time), 22050)
        lines.append(f"LJ001-{number:04}|It’s a tone, for Zoë|It’s a tone, for Zoë\n")
    (folder / "metadata.csv").write_text("".join(lines), encoding="utf-8")
    return folder
