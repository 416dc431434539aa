"""Scales, ticks and the smoothed line, against numbers worked out by hand."""

import pytest
from sdxl_trainer.trainer.report.chart import Axis, nice_ticks, smoothed
from sdxl_trainer.trainer.report.chart_drawing import Scale


@pytest.mark.parametrize(
    ("low", "high", "most", "ticks"),
    [
        (0, 100, 6, [0, 20, 40, 60, 80, 100]),
        (0, 101, 6, [0, 50, 100]),
        (0.03, 0.27, 6, [0.05, 0.1, 0.15, 0.2, 0.25]),
        (0.1867, 0.2037, 5, [0.19, 0.195, 0.2]),
        (0, 1.1e-4, 5, [0, 5e-5, 1e-4]),
        (-3, 4, 8, [-3, -2, -1, 0, 1, 2, 3, 4]),
        (7, 7, 6, [7]),
    ],
)
def test_ticks_are_multiples_of_one_two_or_five(low, high, most, ticks):
    assert nice_ticks(low, high, most) == ticks


@pytest.mark.parametrize("high", [0.0012, 0.9, 3, 17, 99, 12_345, 1e7])
@pytest.mark.parametrize("most", [4, 6, 9])
def test_there_are_never_more_ticks_than_asked_for_nor_too_few(high, most):
    ticks = nice_ticks(0, high, most)
    assert most / 2.6 <= len(ticks) <= most
    assert all(0 <= tick <= high for tick in ticks)


def test_an_axis_ends_at_round_numbers_beyond_its_values():
    axis = Axis.around([0.03, 0.27])
    assert (axis.low, axis.high) == (0, pytest.approx(0.3))
    assert axis.ticks == [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]


@pytest.mark.parametrize("value", [0, 0.25, -3])
def test_an_axis_of_one_value_has_room_on_both_sides(value):
    axis = Axis.around([value, value])
    assert axis.low < value < axis.high


def test_steps_are_whole_numbers_from_zero_to_the_last():
    assert Axis.of_steps(600) == Axis(0, 600, [0, 100, 200, 300, 400, 500, 600])
    assert Axis.of_steps(1).ticks == [0, 1]
    assert Axis.of_steps(0).high == 1


def test_a_scale_goes_both_ways_and_keeps_what_is_beyond_at_its_ends():
    down = Scale(Axis(0, 2, []), 300, 100)
    assert [down.place(value) for value in (0, 0.5, 2, 9, -1)] == [300, 250, 100, 100, 300]


def test_the_smoothed_line_is_a_mean_that_looks_both_ways():
    decay = 2.718281828459045**-0.5
    first, middle, last = smoothed([(1, 4.0), (2, 1.0), (3, 7.0)], 2)
    assert middle == (2, pytest.approx((4 * decay + 1 + 7 * decay) / (1 + 2 * decay)))
    assert first == (1, pytest.approx((4 + decay + 7 * decay**2) / (1 + decay + decay**2)))
    assert last == (3, pytest.approx((7 + decay + 4 * decay**2) / (1 + decay + decay**2)))


def test_smoothing_moves_no_peak_and_changes_no_level():
    values = [0.0] * 50 + [1.0] + [0.0] * 50
    line = [value for _, value in smoothed(list(enumerate(values)), 5)]
    assert line.index(max(line)) == 50
    assert line == pytest.approx(line[::-1])
    assert [value for _, value in smoothed([(step, 0.3) for step in range(20)], 4)] == pytest.approx(
        [0.3] * 20
    )
