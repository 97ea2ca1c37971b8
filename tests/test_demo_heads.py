"""The heads that the demo names last: those of one task's lesion whose importance is its own."""

import numpy as np

from fake_results import fake_results
from lobes.experiments.demo_heads import most_specific, removal
from lobes.heads import HeadSet
from lobes.results import RunResults, checked


def test_without_the_maps_of_two_tasks_or_a_trained_model_nothing_is_shown(tmp_path):
    results = checked(fake_results(tasks=2, sites=(5, 7)), RunResults)
    first, second = results.names
    for maps in (results.importance[:1], results.importance[1:]):
        some = results.model_copy(update={"importance": maps})
        assert most_specific(some, first) == ()
        assert removal(some, tmp_path, [], first, "fp32") is None
    assert most_specific(results, second)
    untrained = results.model_copy(update={"training": None})
    assert removal(untrained, tmp_path, [], second, "fp32") is None


def test_the_most_specific_heads_are_of_the_lesion_and_least_important_to_others():
    results = checked(fake_results(tasks=3, sites=(5, 7), fractions=(0.2, 0.5)), RunResults)
    for name in results.names:
        heads = most_specific(results, name, number=4)
        lesion = results.fractions[-1].lesion_of(name)
        assert len(heads) == 4
        assert HeadSet(heads) - lesion == HeadSet()
        shares = {
            each.task: each.values / np.nanmax(np.abs(each.values)) for each in results.importance
        }

        def excess(head, name=name, shares=shares):
            return shares[name][head] - max(v[head] for task, v in shares.items() if task != name)

        expected = sorted(lesion, key=excess, reverse=True)[:4]
        assert [excess(head) for head in heads] == [excess(head) for head in expected]
