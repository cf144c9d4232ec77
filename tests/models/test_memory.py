import copy

import pytest
import torch

from robolearn.models.memory import Memory


def memory():
    return Memory({"key": (2,), "value": (3, 1), "weight": ()})


def rows(count, seed=0):
    noise = torch.Generator().manual_seed(seed)
    return {name: torch.randn(count, *shape, generator=noise) for name, shape in memory().columns.items()}


@pytest.mark.parametrize("parts", [[7], [1] * 7, [3, 0, 4]])
def test_what_is_appended_is_kept_in_order(parts):
    kept, wanted = memory(), rows(7)
    for part in zip(*(wanted[name].split(parts) for name in wanted), strict=True):
        kept.append(**dict(zip(wanted, part, strict=True)))
    assert len(kept) == 7
    for name in wanted:
        assert torch.equal(kept[name], wanted[name])


def test_growing_row_by_row_copies_little():
    kept, moved, held = memory(), 0, None
    for i in range(200):
        kept.append(**rows(1, i))
        if kept.key is not held:
            moved, held = moved + len(kept), kept.key
    assert moved < 600


def test_the_nearest_are_those_a_loop_finds():
    kept, query = memory(), torch.randn(5, 2, generator=torch.Generator().manual_seed(9))
    kept.append(**rows(40))
    distance, found = kept.nearest(query, 3)
    for b in range(5):
        by_hand = sorted((float((kept["key"][i] - query[b]).norm()), i) for i in range(40))[:3]
        assert found[b].tolist() == [i for _, i in by_hand]
        assert distance[b].tolist() == pytest.approx([d for d, _ in by_hand], rel=1e-5)
    assert kept.nearest(query, 99)[1].shape == (5, 40)


def test_a_key_that_is_asked_for_is_exactly_there_however_far_from_the_origin():
    kept = memory()
    kept.append(**{**rows(60), "key": 1000 + rows(60)["key"]})
    distance, found = kept.nearest(kept["key"], 1)
    assert (distance == 0).all() and found[:, 0].tolist() == list(range(60))


def test_rows_that_do_not_count_are_infinitely_far():
    kept = memory()
    kept.append(**rows(4))
    distance, found = kept.nearest(kept["key"][:1], 4, least=1e-5, among=torch.tensor([True, True, False, True]))
    assert torch.isinf(distance[0]).tolist() == [False, False, True, True]
    assert set(found[0, :2].tolist()) == {1, 3}


def test_an_empty_one_says_so():
    with pytest.raises(RuntimeError, match="nothing is kept; train the policy first"):
        memory().nearest(torch.zeros(1, 2), 1)


def test_it_is_loaded_in_the_length_it_was_saved():
    kept = memory()
    for i in range(5):
        kept.append(**rows(1, i))
    state = kept.state_dict()
    assert {name: len(value) for name, value in state.items()} == {"key": 5, "value": 5, "weight": 5}, "the room to grow is not saved"
    for other in (memory(), copy.deepcopy(kept)):
        other.load_state_dict(state)
        assert len(other) == 5
        other.append(**rows(2, 9))
        for name in kept.columns:
            assert torch.equal(other[name], torch.cat([kept[name], rows(2, 9)[name]]))
    assert len(kept) == 5


@pytest.mark.parametrize("damage", [{"value": torch.zeros(4, 3, 1)}, {"key": torch.zeros(5, 9)}])
def test_what_does_not_fit_fails_as_any_weight_does(damage):
    kept = memory()
    kept.append(**rows(5))
    with pytest.raises(RuntimeError, match="size mismatch"):
        memory().load_state_dict(kept.state_dict() | damage)
