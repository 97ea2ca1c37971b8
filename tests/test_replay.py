"""A lesioned run that starts at the first lesioned site equals the full run to the bit."""

import numpy as np
import pytest
import torch
from torch import nn

from lobes.ablation import ablate
from lobes.discovery import find_heads
from lobes.heads import HeadSet
from lobes.replay import Replay
from tiny_models import tiny_inputs, tiny_model

MODELS = ("bert", "albert", "distilbert", "gpt2", "llama", "t5", "bart", "swin")


def first_output(outputs):
    return outputs[0] if not isinstance(outputs, torch.Tensor) else outputs


@pytest.mark.parametrize("name", MODELS)
def test_every_lesion_equals_its_full_run(name):
    model = tiny_model(name).eval()
    layout = find_heads(model)
    inputs = tiny_inputs(model)
    calls = 0

    def run():
        nonlocal calls
        calls += 1
        return first_output(model(**inputs, **no_cache(model)))

    lesions = [HeadSet(), *(HeadSet([(site.index, 1)]) for site in layout.sites), HeadSet([(0, 0)])]
    with torch.no_grad():
        replay = Replay(model, layout, run)
        assert replay.sharing
        found = dict(replay.runs(run, lesions))
        assert sorted(found) == list(range(len(lesions)))
        for index, lesion in enumerate(lesions):
            with ablate(model, lesion, layout=layout):
                assert torch.equal(found[index], run()), lesion


def no_cache(model):
    return {"use_cache": False} if hasattr(model.config, "use_cache") else {}


def test_what_lies_below_the_first_site_is_not_computed():
    model = tiny_model("bert").eval()
    layout = find_heads(model)
    inputs = tiny_inputs(model)
    ran = []
    forwards = {site.index: model.get_submodule(site.projection) for site in layout.sites}
    for index, module in forwards.items():
        module.register_forward_hook(lambda *_, index=index: ran.append(index))

    def run():
        return model(**inputs).last_hidden_state

    with torch.no_grad():
        replay = Replay(model, layout, run)
        last = layout.sites[-1].index
        ran.clear()
        list(replay.runs(run, [HeadSet([(last, 0)]), HeadSet([(last, 1)])]))
    # The first run sees every site, the other one the last alone.
    assert ran == [*range(last + 1), last]


@pytest.mark.parametrize("name", ["bert", "bart", "albert"])
def test_lesions_share_what_they_have_in_common(name):
    model = tiny_model(name).eval()
    layout = find_heads(model)
    inputs = tiny_inputs(model)
    generator = np.random.default_rng(0)
    sites = [site.index for site in layout.sites]
    lesions = [
        HeadSet((s, h) for s in sites for h in generator.choice(2, generator.integers(3), False))
        for _ in range(23)
    ]
    lesions += [HeadSet(), lesions[0]]
    ran = 0

    def count(*_):
        nonlocal ran
        ran += 1

    def run():
        return first_output(model(**inputs, **no_cache(model)))

    with torch.no_grad():
        replay = Replay(model, layout, run)
        assert replay.sharing
        for site in layout.sites:
            model.get_submodule(site.projection).register_forward_hook(count)
        found = dict(replay.runs(run, lesions))
        shared, ran = ran, 0
        run()
        each, prefixes = ran, [[lesion.by_site().get(s) for s in sites] for lesion in lesions]
        for index, lesion in enumerate(lesions):
            with ablate(model, lesion, layout=layout):
                assert torch.equal(found[index], run()), lesion
    # one run of a site for each different set of heads in it and before it
    different = {str(prefix[: k + 1]) for prefix in prefixes for k in range(len(sites))}
    assert shared == len(different) * each // len(sites)


def test_a_model_that_changes_an_output_in_place_is_run_in_full():
    class Block(nn.Module):
        """The residual stream is changed in place: what a lower block returned does not stay."""

        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, 6)

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v)
            x += self.out(y.transpose(1, 2).flatten(2))
            return x

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(11, 6)
            self.blocks = nn.ModuleList([Block(), Block()])

        def forward(self, input_ids):
            x = self.embedding(input_ids)
            for block in self.blocks:
                x = block(x)
            return x

    torch.manual_seed(0)
    model = Model().eval()
    inputs = {"input_ids": torch.arange(10).view(2, 5)}
    layout = find_heads(model, example_inputs=inputs)

    def run():
        return model(**inputs)

    lesions = [HeadSet([(0, 1)]), HeadSet([(1, 0)]), HeadSet()]
    with torch.no_grad():
        replay = Replay(model, layout, run)
        assert not replay.sharing
        for index, output in replay.runs(run, lesions):
            with ablate(model, lesions[index], layout=layout):
                assert torch.equal(output, run())


def test_nothing_is_left_behind_when_a_run_fails():
    model = tiny_model("bert").eval()
    layout = find_heads(model)
    inputs = tiny_inputs(model)
    fail = False

    def run():
        if fail:
            raise KeyboardInterrupt
        return model(**inputs).last_hidden_state

    with torch.no_grad():
        before = run()
        replay = Replay(model, layout, run)
        runs = replay.runs(run, [HeadSet([(0, 0)]), HeadSet([(1, 0)])])
        next(runs)
        fail = True
        with pytest.raises(KeyboardInterrupt):
            next(runs)
        fail = False
        assert torch.equal(run(), before)
    for module in model.modules():
        assert "forward" not in module.__dict__
        assert not module._forward_pre_hooks
        assert not module._forward_hooks
