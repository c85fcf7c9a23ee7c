"""Disturbed routing: what changes nothing, what changes what, and that it ends."""

import pytest
import torch

from sigmel.errors import SigmelError
from sigmel.models.encoder import OmniRouterEncoder
from sigmel.routing_study.paths import count_paths
from sigmel.routing_study.robustness import disturbed, noise, permute, restrict, shuffle

LENGTHS = torch.tensor([40, 29])


@pytest.fixture(params=[("omni", 1), ("switch", 1), ("path:2", 2)], ids=lambda param: f"{param[0]}-top{param[1]}")
def encoder(request):
    routing, top_k = request.param
    encoder = OmniRouterEncoder(
        input_size=8, d_model=16, num_layers=4, num_heads=2, subsampling="stack", routing=routing, top_k=top_k
    )
    for router in encoder.routers:  # scores that are far apart
        torch.nn.init.normal_(router.linear.weight)
    return encoder.eval()


@pytest.fixture
def features():
    return torch.randn(2, 40, 8)


def first_choices(output):
    return torch.stack([decision.experts[..., 0] for decision in output.routing], -1)  # (B, T, L)


def paths_of(encoder, features):
    return count_paths(first_choices(encoder(features, LENGTHS)).flatten(0, 1)).paths


@torch.no_grad()
def test_the_identity_no_noise_and_all_paths_change_nothing(encoder, features):
    plain = encoder(features, LENGTHS)
    for change in (permute([torch.arange(4)] * 4), noise(0.0, seed=3), restrict(paths_of(encoder, features))):
        with disturbed(encoder, change):
            output = encoder(features, LENGTHS)
        assert torch.equal(output.hidden, plain.hidden)
        for after, before in zip(output.routing, plain.routing, strict=True):
            assert all(map(torch.equal, after[:3], before[:3]))


@torch.no_grad()
@pytest.mark.parametrize(
    "change", [shuffle([4] * 4, seed=1), noise(3.0, seed=1), restrict(torch.tensor([[0, 1, 2, 3]]))]
)
def test_a_disturbance_ends_with_its_context(encoder, features, change):
    plain = encoder(features, LENGTHS)
    with disturbed(encoder, change):
        assert not torch.allclose(encoder(features, LENGTHS).hidden, plain.hidden)
    assert torch.equal(encoder(features, LENGTHS).hidden, plain.hidden)


@torch.no_grad()
def test_a_permutation_of_experts_undoes_that_of_their_weights(encoder, features):
    """Each layer by its own permutation, though its router may be another layer's, too."""
    plain = encoder(features, LENGTHS).hidden
    permutations = [torch.randperm(4) for _ in range(4)]
    for block, permutation in zip(encoder.blocks, permutations, strict=True):
        for weight in block.feed_forward.parameters():
            weight[permutation] = weight.clone()
    with disturbed(encoder, permute(permutations)):
        torch.testing.assert_close(encoder(features, LENGTHS).hidden, plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kept", [1, 2, 5])
def test_every_frame_is_on_a_path_that_is_left(encoder, features, kept):
    paths = paths_of(encoder, features)[:kept]
    with disturbed(encoder, restrict(paths)):
        output = encoder(features, LENGTHS)
    taken = set(map(tuple, first_choices(output).flatten(0, 1).tolist()))
    assert taken <= set(map(tuple, paths.tolist()))
    for decision in output.routing:  # the experts of a frame remain different ones
        assert all(len(set(experts)) == len(experts) for experts in decision.experts.flatten(0, 1).tolist())


@torch.no_grad()
def test_a_restricted_frame_takes_the_best_expert_that_continues_a_path(encoder, features):
    paths = paths_of(encoder, features)[:6]
    with disturbed(encoder, restrict(paths)):
        output = encoder(features, LENGTHS)
    scores = torch.stack([decision.logits for decision in output.routing], dim=2).flatten(0, 1)  # (N, L, E)
    for frame, taken in zip(scores.tolist(), first_choices(output).flatten(0, 1).tolist(), strict=True):
        left = paths.tolist()
        for layer, expert in enumerate(taken):
            assert expert == max({path[layer] for path in left}, key=frame[layer].__getitem__)
            left = [path for path in left if path[layer] == expert]


@torch.no_grad()
@pytest.mark.parametrize("groups", ["2x3-2x5", "2x5-2x3"])
def test_layers_may_differ_in_their_number_of_experts(features, groups):
    encoder = OmniRouterEncoder(input_size=8, d_model=16, num_layers=4, num_heads=2, expert_layers=groups).eval()
    plain = encoder(features, LENGTHS)
    paths = count_paths(first_choices(plain).flatten(0, 1)).paths
    with disturbed(encoder, restrict(paths)):
        assert torch.equal(encoder(features, LENGTHS).hidden, plain.hidden)
    with disturbed(encoder, restrict(paths[:1])):
        assert set(map(tuple, first_choices(encoder(features, LENGTHS)).flatten(0, 1).tolist())) == {
            tuple(paths[0].tolist())
        }
    sizes = [decision.logits.shape[-1] for decision in plain.routing]
    with disturbed(encoder, shuffle(sizes, seed=0)):
        for decision, size in zip(encoder(features, LENGTHS).routing, sizes, strict=True):
            assert int(decision.experts.max()) < size


@torch.no_grad()
def test_a_seed_says_what_happens(encoder, features):
    def run(change):
        with disturbed(encoder, change):
            return encoder(features, LENGTHS).hidden

    for make in (lambda seed: noise(1.0, seed), lambda seed: shuffle([4] * 4, seed)):
        assert torch.equal(run(make(1)), run(make(1)))
        assert not torch.equal(run(make(1)), run(make(2)))


@torch.no_grad()
def test_noise_is_as_large_as_it_says(encoder):
    features = torch.randn(8, 400, 8)
    lengths = torch.full((8,), 400)
    plain = encoder(features, lengths).routing[0].logits
    with disturbed(encoder, noise(0.7, seed=0)):
        added = encoder(features, lengths).routing[0].logits - plain
    assert added.std().item() == pytest.approx(0.7, rel=0.05)
    assert added.mean().item() == pytest.approx(0, abs=0.05)


def test_what_cannot_be_done_is_named():
    with pytest.raises(SigmelError, match="-1 must be 0 or more"):
        noise(-1, seed=0)
    with pytest.raises(SigmelError, match="at least one must be left"):
        restrict(torch.zeros(0, 4, dtype=torch.int64))
