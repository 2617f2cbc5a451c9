"""The stream of batches: every row as often as its weight says, resumable, tied to its data, shared among hosts."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aloe_jax.data.loader import Loader, evaluation_batches
from aloe_jax.data.packing import Part, pack, pack_sources
from aloe_jax.errors import AloeError
from tests.data.test_packing import draw_tree


def draw_trees(count, first=0):
    return [draw_tree(np.random.default_rng(seed), f"t{seed}", 3) for seed in range(first, first + count)]


ROWS, _ = pack(draw_trees(9), 60)
SIZES = (3, 5, 2)
MANY, _ = pack(draw_trees(60), 60)
weights = st.one_of(st.sampled_from([0.5, 1.0, 2.0, 2.5]), st.floats(0.01, 4))


def parts_of(weighed):
    """Parts of SIZES rows each, as far as there are weights."""
    starts = np.cumsum([0, *SIZES])
    return [Part(f"p{k}", int(starts[k]), int(starts[k + 1]), weight) for k, weight in enumerate(weighed)]


def stream(loader, steps, first=0):
    return np.concatenate([loader.indices(step) for step in range(first, first + steps)])


def test_an_epoch_sees_every_row_once_and_epochs_differ():
    loader = Loader(ROWS, 2, seed=3)
    rows = stream(loader, len(ROWS))  # two epochs
    first, second = rows[: len(ROWS)], rows[len(ROWS) :]
    assert sorted(first) == sorted(second) == list(range(len(ROWS)))
    assert first.tolist() != second.tolist()


def test_one_part_of_weight_1_is_the_plain_permutation_of_seed_and_epoch():
    loader = Loader(ROWS, 3, seed=7, parts=[Part("p", 0, len(ROWS))])
    expected = np.concatenate([np.random.default_rng([7, epoch]).permutation(len(ROWS)) for epoch in range(6)])
    assert stream(loader, len(ROWS)).tolist() == expected[: 3 * len(ROWS)].tolist()


@given(st.lists(weights, min_size=1, max_size=3), st.integers(1, 9), st.integers(0, 99))
def test_nothing_is_lost_or_doubled_whatever_the_weights(weighed, size, seed):
    parts = parts_of(weighed)
    loader = Loader(MANY, size, seed, parts=parts)
    length = loader.rows_per_epoch
    epochs = 12
    rows = stream(loader, -(-epochs * length // size))
    assert loader.steps_per_epoch() == -(-length // size)
    seen = Counter()
    for epoch in range(epochs):
        counts = Counter(rows[epoch * length : (epoch + 1) * length].tolist())
        seen.update(counts)
        for part in parts:
            count = part.stop - part.start
            taken = [counts[row] for row in range(part.start, part.stop)]
            assert abs(sum(taken) - max(1, part.weight * count)) <= 0.5 + 1e-9
            assert set(taken) <= {sum(taken) // count, -(-sum(taken) // count)}
            # Over epochs, too: no row is more than once ahead of another.
            so_far = [seen[row] for row in range(part.start, part.stop)]
            assert max(so_far) - min(so_far) <= 1
    assert not set(seen) - {row for part in parts for row in range(part.start, part.stop)}


def test_a_weight_of_one_half_takes_the_other_half_next():
    loader = Loader(MANY, 1, 0, parts=[Part("p", 0, 10, 0.5)])
    assert loader.rows_per_epoch == 5
    assert sorted(stream(loader, 10)) == list(range(10))
    assert stream(loader, 10, 10).tolist() != stream(loader, 10).tolist()


@given(st.lists(weights, min_size=1, max_size=3), st.integers(0, 40))
def test_batches_depend_on_step_and_seed_only(weighed, step):
    parts = parts_of(weighed)
    one, two = (Loader(MANY, 3, seed=1, parts=parts) for _ in range(2))
    one.batch(7)
    for name, values in one.batch(step).items():
        assert (values == two.batch(step)[name]).all()


def test_another_seed_is_another_order():
    assert Loader(ROWS, 3, seed=2).indices(0).tolist() != Loader(ROWS, 3, seed=1).indices(0).tolist()


@given(st.sampled_from([1, 2, 3, 4, 6, 12]), st.lists(weights, min_size=1, max_size=3), st.integers(0, 20))
def test_shares_of_hosts_are_disjoint_and_complete(hosts, weighed, step):
    loader = Loader(MANY, 12, 5, parts_of(weighed)).with_arrays({"reference": np.arange(len(MANY))})
    whole, each = loader.batch(step), 12 // hosts
    shares = [loader.batch(step, slice(host * each, (host + 1) * each)) for host in range(hosts)]
    for name, values in whole.items():
        assert (np.concatenate([share[name] for share in shares]) == values).all()
    assert whole["reference"].tolist() == loader.indices(step).tolist()


def test_the_conversations_of_a_batch():
    loader = Loader(ROWS, 2, seed=3)
    expected = [name for row in loader.indices(4) for name in ROWS.tree_ids[row]]
    assert loader.tree_ids(4) == expected and set(expected) <= {f"t{k}" for k in range(9)}


# ---------------------------------------------------------------- positions


def as_stored(position):
    return json.loads(json.dumps(position))


@given(st.lists(weights, min_size=1, max_size=3), st.integers(0, 30))
def test_resuming_gives_the_same_batches(weighed, step):
    parts = parts_of(weighed)
    before, after = (Loader(MANY, 4, 2, parts=parts) for _ in range(2))
    assert after.resume(as_stored(before.position(step))) == step
    assert stream(after, 5, step).tolist() == stream(before, step + 5)[4 * step :].tolist()


def refused(loader, position, told):
    with pytest.raises(AloeError, match="the data changed since step 5 was saved: " + told) as caught:
        loader.resume(as_stored(position))
    assert "\n" not in str(caught.value)


def test_a_position_of_other_data_is_refused_with_what_changed():
    position = Loader(ROWS, 2, seed=1).position(5)
    assert Loader(ROWS, 2, seed=1).resume(position) == 5
    other, _ = pack(draw_trees(8), 60)
    refused(Loader(other, 2, seed=1), position, "the data gives other rows")
    refused(Loader(ROWS, 3, seed=1), position, "data.rows was 2, now 3; ")
    refused(Loader(ROWS, 2, seed=2), position, "seed was 1, now 2; ")
    refused(Loader(ROWS, 2, seed=1), {"step": 5, "fingerprint": "abc"}, "it was saved by another version")


def test_what_changed_of_a_mixture_is_told_by_source():
    def loader(weighed, order=("a", "b"), **sources):
        sources = {"a": draw_trees(6), "b": draw_trees(9, 20)} | sources
        rows, reports = pack_sources({name: sources[name] for name in order}, 60)
        ends = np.cumsum([0] + [report.rows for report in reports])
        parts = [Part(name, int(ends[k]), int(ends[k + 1]), weighed[name]) for k, name in enumerate(order)]
        return Loader(rows, 2, 1, parts=parts)

    weighed = {"a": 1.0, "b": 0.5, "c": 1.0}
    position = loader(weighed).position(5)
    assert loader(weighed).resume(as_stored(position)) == 5
    refused(loader(weighed | {"b": 2.0}), position, "the weight of b was 0.5, now 2; ")
    refused(loader(weighed, ("a",)), position, "b is no longer part of it; ")
    refused(
        loader(weighed, b=draw_trees(9, 21)),
        position,
        r"b gives other rows \(its content, the tokenizer or data.row_length changed\); ",
    )
    refused(loader(weighed, ("b", "a")), position, "the order of its sources")
    # A third source with longer lists of replies and pairs changes the shape of all rows, but not what is in them.
    more = {"c": [draw_tree(np.random.default_rng(3), "c", 9).fit(60)]}
    refused(loader(weighed, ("a", "b", "c"), **more), position, "c was not part of it; ")


def test_evaluation_covers_every_row_in_one_shape():
    batches = evaluation_batches(ROWS, 4)
    assert {batch["tokens"].shape for batch in batches} == {(4, 60)}
    assert sum((batch["pair_turn"] > 0).sum() for batch in batches) == (ROWS.pair_turn > 0).sum()
    assert sum((batch["reply_length"] > 0).sum() for batch in batches) == (ROWS.reply_length > 0).sum()
    assert all((batch["subtree_end"] > np.arange(60)).all() for batch in batches)
