"""The stream of batches: every row once an epoch, resumable, tied to its data."""

import numpy as np
import pytest

from aloe_jax.data.loader import Loader, evaluation_batches
from aloe_jax.data.packing import pack
from aloe_jax.errors import AloeError
from tests.data.test_packing import draw_tree

ROWS, _ = pack([draw_tree(np.random.default_rng(seed), f"t{seed}", 3) for seed in range(9)], 60)


def test_an_epoch_sees_every_row_once_and_epochs_differ():
    loader = Loader(ROWS, 2, seed=3)
    stream = np.concatenate([loader.indices(step) for step in range(len(ROWS))])  # two epochs
    first, second = stream[: len(ROWS)], stream[len(ROWS) :]
    assert sorted(first) == sorted(second) == list(range(len(ROWS)))
    assert first.tolist() != second.tolist()


def test_batches_depend_on_step_and_seed_only():
    one, two = Loader(ROWS, 3, seed=1), Loader(ROWS, 3, seed=1)
    one.batch(7)
    for name, values in one.batch(4).items():
        assert (values == two.batch(4)[name]).all()
    assert Loader(ROWS, 3, seed=2).indices(0).tolist() != one.indices(0).tolist()


def test_a_position_of_other_data_is_refused():
    position = Loader(ROWS, 2, seed=1).position(5)
    assert Loader(ROWS, 2, seed=1).resume(position) == 5
    other, _ = pack([draw_tree(np.random.default_rng(seed), f"t{seed}", 3) for seed in range(8)], 60)
    for loader in (Loader(other, 2, seed=1), Loader(ROWS, 3, seed=1), Loader(ROWS, 2, seed=2)):
        with pytest.raises(AloeError, match="the data changed since step 5 was saved"):
            loader.resume(position)


def test_evaluation_covers_every_row_in_one_shape():
    batches = evaluation_batches(ROWS, 4)
    assert {batch["tokens"].shape for batch in batches} == {(4, 60)}
    assert sum((batch["pair_turn"] > 0).sum() for batch in batches) == (ROWS.pair_turn > 0).sum()
    assert sum((batch["reply_length"] > 0).sum() for batch in batches) == (ROWS.reply_length > 0).sum()
    assert all((batch["subtree_end"] > np.arange(60)).all() for batch in batches)
