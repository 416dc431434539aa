"""web/panel/chart.js with its history, and the number formats, in a bare page."""

import pytest

CHART = """
const { LossChart } = await import("/panel/chart.js");
const { RunHistory } = await import("/panel/run_history.js");
document.body.replaceChildren();
const host = document.createElement("div");
host.style.cssText = "width: 420px; height: 200px";
document.body.append(host);
const chart = new LossChart(host);
const run = (curve, more = {}) => {
    const history = new RunHistory();
    history.replace(curve);
    return { history, numSteps: 100, validation: { step: [], loss: [] }, checkpoints: [], ...more };
};
const curve = (step, loss) => ({ step, loss, low: loss, high: loss, learning_rate: step.map(() => 1e-4) });
const inked = () => {
    const canvas = host.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let count = 0;
    for (let i = 3; i < data.length; i += 4) if (data[i] > 0) count += 1;
    return count;
};
"""
FORMATS = {
    "duration(0)": "0 s",
    "duration(59.4)": "59 s",
    "duration(59.6)": "1:00 min",
    "duration(187)": "3:07 min",
    "duration(3599.6)": "1:00 h",
    "duration(100800)": "1 d 4 h",
    "duration(null)": "",
    "duration(NaN)": "",
    "duration(Infinity)": "",
    "bytes(671088640)": "640 MB",
    "bytes(12133334712)": "11.3 GB",
    "bytes(undefined)": "",
    "lossText(0.12345)": "0.1235",
    "lossText(0.0000123)": "1.23e-5",
    "lossText(null)": "",
    "lossText(NaN)": "",
    "rateText(0.0001)": "1e-4",
    "rateText(0.000025)": "2.5e-5",
    "rateText(1)": "1",
    "rateText(0)": "0",
    "secondsPerStep(0.421)": "0.42",
    "secondsPerStep(1.63)": "1.6",
    "percent(999, 1000)": 99,
    "percent(1000, 1000)": 100,
    "percent(5, 0)": 0,
}


@pytest.fixture
def in_chart(web_tab):
    """A function that runs code beside an empty chart of 420 x 200 px."""
    return lambda code: web_tab.evaluate(f"async () => {{ {CHART} {code} }}")


@pytest.mark.parametrize("call", FORMATS)
def test_numbers_as_people_read_them(web_tab, call):
    found = web_tab.evaluate(
        f"async () => {{ const f = await import('/panel/format.js'); return f.{call}; }}"
    )
    assert found == FORMATS[call]


def test_points_are_drawn_and_a_new_one_changes_the_picture(in_chart):
    pictures = in_chart(
        """const look = () => host.querySelector("canvas").toDataURL();
        const one = run(curve([], [])); chart.setRun(one); const empty = look();
        one.history.append(curve([1, 2, 3, 4], [0.4, 0.3, 0.35, 0.2])); chart.update(one);
        const first = look();
        one.history.append(curve([5], [0.5])); chart.update(one);
        return [empty, first, look(), host.dataset.points, host.dataset.lastStep];"""
    )
    assert len(set(pictures[:3])) == 3
    assert pictures[3:] == ["5", "5"]


def test_skipped_steps_leave_a_gap_and_the_average_goes_on(in_chart):
    losses, smooth = in_chart(
        """const one = run(curve([1, 2, 3, 4], [0.4, null, null, 0.2])); chart.setRun(one);
        return [[...one.history.column("loss")].map(String), [...one.history.smoothed(0.5)]];"""
    )
    assert losses == ["0.4", "NaN", "NaN", "0.2"]
    assert smooth[1] == pytest.approx(0.4)
    assert smooth[3] == pytest.approx((0.5 * 0.4 + 0.2) / 1.5)


def test_a_run_of_nothing_but_skipped_steps_still_draws_its_axes(in_chart):
    assert in_chart("chart.setRun(run(curve([1, 2, 3], [null, null, null]))); return inked();") > 0


def test_the_newest_steps_of_a_thinned_curve_are_taken_once(in_chart):
    steps = in_chart(
        """const one = run(curve([10, 20, 30], [0.4, 0.3, 0.2]));
        one.history.append(curve([30, 31], [0.2, 0.1]));
        return [...one.history.column("step")];"""
    )
    assert steps == [10, 20, 30, 31]


def test_the_lowest_and_highest_of_a_thinned_point_are_seen(in_chart):
    narrow, wide = in_chart(
        """const step = [10, 20, 30], loss = [0.3, 0.3, 0.3], learning_rate = [1, 1, 1];
        chart.setRun(run({ step, loss, low: loss, high: loss, learning_rate })); const narrow = inked();
        chart.setRun(run({ step, loss, low: [0.29, 0.29, 0.29], high: [0.31, 0.31, 0.31], learning_rate }));
        return [narrow, inked()];"""
    )
    assert wide > narrow


def test_a_chart_that_is_not_on_the_page_waits_until_it_is(in_chart):
    hidden, shown = in_chart(
        """host.remove(); const one = run(curve([1, 2], [0.3, 0.2])); chart.setRun(one);
        const hidden = host.querySelectorAll("canvas").length;
        document.body.append(host); chart.update(one); return [hidden, inked()];"""
    )
    assert hidden == 0
    assert shown > 0
