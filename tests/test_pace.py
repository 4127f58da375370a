"""All threads or one, whichever is faster at the moment; and no bit depends on it."""

import numpy as np
import pytest

import nbnn
from nbnn import Affine, Dropout, Graph, ReLU
from nbnn.pace import PIECE, TRIES, Pace


def work(pace, speeds, pieces, threads=2, batch=10):
    """Do pieces of work at these seconds a step, by the number of threads; how many pieces each number got."""
    got = dict.fromkeys(speeds, 0)
    for _ in range(pieces):
        chosen, steps = pace.plan(threads, 10**6, batch)
        pace.learn(chosen, steps * batch, steps * speeds[chosen])
        got[chosen] += 1
    return got


@pytest.mark.parametrize(("speeds", "better"), [({2: 1e-4, 1: 2e-4}, 2), ({2: 2e-4, 1: 1e-4}, 1)])
def test_the_faster_number_does_nearly_all(speeds, better):
    assert work(Pace(), speeds, 10 * TRIES)[better] > 9 * TRIES


def test_a_change_is_noticed_in_both_directions():
    pace = Pace()
    work(pace, {2: 1e-4, 1: 2e-4}, 3 * TRIES)
    assert work(pace, {2: 4e-4, 1: 2e-4}, TRIES)[1] > TRIES - 10
    assert work(pace, {2: 1e-4, 1: 2e-4}, 3 * TRIES)[2] > TRIES


def test_long_steps_try_one_thread_only_when_they_have_become_slow():
    pace = Pace()
    assert work(pace, {2: 0.06, 1: 0.12}, 5 * TRIES)[1] == 0
    assert work(pace, {2: 0.07, 1: 0.12}, 5 * TRIES)[1] == 0
    assert work(pace, {2: 0.5, 1: 0.12}, TRIES)[1] > TRIES - 10


def test_where_one_thread_is_no_better_it_is_tried_seldom():
    pace = Pace()
    work(pace, {2: 0.06, 1: 0.12}, TRIES)
    assert 1 <= work(pace, {2: 0.2, 1: 0.4}, 10 * TRIES)[1] <= 10


def test_a_short_disturbance_is_soon_forgotten():
    """While another program has the second core, threads are hardly slower than one, so they are tried often."""
    for one in (0.018, 0.0195, 0.0201, 0.0205, 0.0211):
        pace = Pace()
        work(pace, {2: 0.01, 1: one}, TRIES)
        assert work(pace, {2: 0.02, 1: one}, 2 * TRIES)[1] > TRIES // 2
        assert work(pace, {2: 0.01, 1: one}, TRIES)[1] < 6


def test_one_disturbed_piece_changes_nothing():
    pace = Pace()
    work(pace, {2: 1e-4, 1: 2e-4}, TRIES + 3)
    pace.learn(2, 10, 1.0)
    assert pace.plan(2, 100, 10)[0] == 2


def test_a_larger_batch_is_not_a_slower_machine():
    pace = Pace()
    work(pace, {2: 1e-2, 1: 2e-2}, TRIES, batch=10)
    assert work(pace, {2: 1e-1, 1: 2e-1}, TRIES, batch=100)[1] == 0


def test_one_thread_is_one_piece_and_pieces_have_their_length():
    assert Pace().plan(1, 100, 5) == (1, 100)
    pace = Pace()
    assert pace.plan(8, 100, 5) == (8, 1)
    work(pace, {2: 1e-3, 1: 2e-3}, 5)
    assert pace.plan(2, 10**6, 10) == (2, round(PIECE / 1e-3)) and pace.plan(2, 3, 10) == (2, 3)


def test_steps_in_pieces_are_the_steps_one_by_one():
    """Losses, weights and the generator of dropout go on where the piece before ended."""
    graph = Graph([Affine(16), ReLU(), Dropout(0.5), Affine(3)], input=(8,), loss="softmax")
    r = np.random.default_rng(0)
    x, y, rows = r.standard_normal((64, 8), np.float32), r.integers(0, 3, 64), r.integers(0, 64, (300, 16))

    def trained(pieces):
        model = nbnn.compile(graph, seed=0)
        losses = np.concatenate([model.train_steps(x, y, indices=part) for part in np.array_split(rows, pieces)])
        return losses.tobytes(), [v.tobytes() for v in model.params.values()]

    assert trained(1) == trained(300) == trained(7)


def test_a_loss_that_is_not_finite_ends_all_pieces():
    graph = Graph([Affine(3)], input=(4,), loss="softmax")
    x, y = np.full((8, 4), 1e30, np.float32), np.zeros(8, int)
    model = nbnn.compile(graph, seed=0)
    with pytest.raises((FloatingPointError, ValueError)):
        model.train_steps(x, y, indices=np.tile(np.arange(8), (2000, 1)), optim_config={"learning_rate": 1e30})
