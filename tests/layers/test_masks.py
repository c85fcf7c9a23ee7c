"""Masks against their definition, entry by entry."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sigmel.layers.masks import attention_mask, context_mask, valid_frames


@settings(max_examples=60, deadline=None)
@given(frames=st.integers(1, 12), chunk=st.none() | st.integers(1, 5), left=st.none() | st.integers(0, 6))
def test_context(frames, chunk, left):
    mask = context_mask(frames, chunk, left if chunk else None, torch.device("cpu"))
    for i in range(frames):
        for j in range(frames):
            if chunk is None:
                seen = True
            else:
                start = i // chunk * chunk
                seen = j < start + chunk and (left is None or j >= start - left)
            assert mask[i, j].item() == seen


def test_every_frame_sees_itself_even_in_an_empty_utterance():
    valid = valid_frames(torch.tensor([0, 2]), 3)
    assert valid.tolist() == [[False] * 3, [True, True, False]]
    mask = attention_mask(valid, context_mask(3, None, None, torch.device("cpu")))
    assert mask.shape == (2, 1, 3, 3)
    assert mask[0, 0].tolist() == torch.eye(3, dtype=torch.bool).tolist()
    assert mask[1, 0, 0].tolist() == [True, True, False]
