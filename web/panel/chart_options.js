/** uPlot's options for a loss chart. All sizes are in pixels of the page times `sharpness`. */

import { countText, rateText } from "./format.js";
import { niceStep } from "./chart_scales.js";

const FONT_SIZE = 10;
const LOSS_AXIS = 42;
const RATE_AXIS = 36;
const STEP_AXIS = 20;
const NARROW = 250;
const FRACTIONS = Array.from({ length: 42 }, (_, i) => [1, 2, 5][i % 3] * 10 ** (Math.floor(i / 3) - 10));
const STEPS = [
    1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10000, 20000, 50000, 100000, 200000,
    500000,
];

/** Short labels of a loss axis: as many figures as its marks need to differ. */
function lossLabels(splits, isLog) {
    if (isLog) return splits.map((value) => (value === null ? "" : String(Number(value.toPrecision(2)))));
    const apart = splits.length > 1 ? Math.abs(splits[1] - splits[0]) : 1;
    const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10(apart) - 1e-9)));
    return splits.map((value) => value.toFixed(digits));
}

/** 1, 2, 5 of each decade, or only the powers where there are many. */
function logSplits(low, high) {
    const decades = Math.log10(high / low);
    if (decades < 0.7) {
        const apart = niceStep((high - low) / 4);
        const first = Math.ceil(low / apart) * apart;
        return Array.from(
            { length: Math.floor((high - first) / apart + 1e-9) + 1 },
            (_, i) => first + i * apart,
        );
    }
    const factors = decades > 2.5 ? [1] : [1, 2, 5];
    const splits = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
        for (const factor of factors) splits.push(factor * 10 ** power);
    }
    return splits.filter((value) => value >= low * 0.999 && value <= high * 1.001);
}

/** A number of pixels of the mouse on a chart that ComfyUI's canvas and the sharpness have scaled. */
function unscaled(plot, handler) {
    return (event) => {
        plot.syncRect(true);
        const { left, top, width } = plot.rect;
        const scale = width / (plot.over.offsetWidth || width) || 1;
        return handler({
            type: event.type,
            button: event.button,
            target: event.target,
            movementX: event.movementX,
            movementY: event.movementY,
            clientX: left + (event.clientX - left) / scale,
            clientY: top + (event.clientY - top) / scale,
        });
    };
}

/** Steps below, losses to the left, learning rates to the right. */
function axesOf({ size, colors, isLog, isLogRate, hasRateAxis }) {
    const axis = {
        stroke: colors.dim,
        font: `${size(FONT_SIZE)}px ${colors.font}`,
        gap: size(4),
        ticks: { show: false },
        grid: { stroke: faint(colors.grid), width: size(1) },
    };
    return [
        {
            ...axis,
            size: size(STEP_AXIS),
            space: size(54),
            values: (_, splits) => splits.map(stepLabel),
            incrs: STEPS,
        },
        {
            ...axis,
            scale: "y",
            size: size(LOSS_AXIS),
            space: size(26),
            incrs: FRACTIONS,
            filter: (_, splits) => splits,
            values: (_, splits) => lossLabels(splits, isLog),
            ...(isLog ? { splits: (_plot, _axis, low, high) => logSplits(low, high) } : {}),
        },
        {
            ...axis,
            show: hasRateAxis,
            scale: "rate",
            side: 1,
            size: size(RATE_AXIS),
            space: size(44),
            incrs: FRACTIONS,
            grid: { show: false },
            filter: (_, splits) => splits,
            values: (_, splits) => splits.map(rateText),
            ...(isLogRate
                ? { splits: (_plot, _axis, low, high) => logSplits(low, high).filter(isPower) }
                : {}),
        },
    ];
}

/**
 * @param {object} chart
 * @param {number} chart.width
 * @param {number} chart.height
 * @param {number} chart.sharpness
 * @param {object} chart.colors From chartColors.
 * @param {boolean} chart.isLog
 * @param {boolean} chart.isLogRate
 * @param {Record<string, Function>} chart.ranges Of the scales x, y and rate.
 * @param {Record<string, Function[]>} chart.hooks
 * @returns {object}
 */
export function chartOptions({ width, height, sharpness, colors, isLog, isLogRate, ranges, hooks }) {
    const size = (value) => value * sharpness;
    const hasRateAxis = width > NARROW;
    const wrap = (plot, _target, handler) => unscaled(plot, handler);
    return {
        width: size(width),
        height: size(height),
        padding: [size(7), hasRateAxis ? 0 : size(8), 0, 0],
        legend: { show: false },
        cursor: {
            y: false,
            points: { show: false },
            drag: { x: true, y: false, setScale: true, dist: size(4) },
            bind: { mousedown: wrap, mousemove: wrap, mouseup: wrap },
        },
        scales: {
            x: { time: false, range: ranges.x },
            y: { range: ranges.y, distr: isLog ? 3 : 1 },
            rate: { range: ranges.rate, distr: isLogRate ? 3 : 1 },
        },
        series: [
            {},
            {
                scale: "rate",
                stroke: colors.rate,
                width: size(1),
                dash: [size(5), size(3)],
                points: { show: false },
            },
            { scale: "y", stroke: colors.loss, width: size(2), points: { show: false } },
        ],
        axes: axesOf({ size, colors, isLog, isLogRate, hasRateAxis }),
        hooks,
    };
}

function isPower(value) {
    return Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-6;
}

function stepLabel(step) {
    return step >= 10000 && step % 1000 === 0 ? `${step / 1000}k` : countText(step);
}

/** A grid that stays behind the curves: the border colour, half seen through. */
function faint(color) {
    return `color-mix(in srgb, ${color} 45%, transparent)`;
}
