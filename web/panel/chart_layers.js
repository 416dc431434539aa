/** What a loss chart draws besides uPlot's lines: the raw dots with their band, held-out losses, checkpoints. */

import { nearestIndex } from "./chart_scales.js";

const MOST_DOTS = 3000;
const FEW_DOTS = 200;
const MANY_DOTS = 800;
const BAND_COLUMN = 2;

/** From values to pixels of the canvas, worked out once for a whole layer. */
function pixelScales(plot) {
    const { left, top, width, height } = plot.bbox;
    const x = plot.scales.x;
    const y = plot.scales.y;
    const isLog = y.distr === 3;
    const bottom = isLog ? Math.log10(y.min) : y.min;
    const perX = width / (x.max - x.min);
    const perY = height / ((isLog ? Math.log10(y.max) : y.max) - bottom);
    const edge = top + height;
    return {
        xOf: (value) => left + (value - x.min) * perX,
        yOf: (value) => edge - ((isLog ? Math.log10(Math.max(value, y.min)) : value) - bottom) * perY,
    };
}

/** Draws into the plot's rectangle only. */
function clipped(plot, draw) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    draw(ctx);
    ctx.restore();
}

/**
 * @param {import("./run_history.js").RunHistory} history
 * @param {number} low First step in view.
 * @param {number} high Last step in view.
 * @returns {[number, number]} First and last index of the points in view, one more to each side.
 */
export function indicesBetween(history, low, high) {
    const steps = history.column("step");
    return [
        Math.max(0, nearestIndex(steps, low) - 1),
        Math.min(steps.length - 1, nearestIndex(steps, high) + 1),
    ];
}

/** Few dots may be large, many have to be small to be told apart. */
function dotSize(count) {
    if (count <= FEW_DOTS) return 3;
    return count > MANY_DOTS ? 1.5 : 2.2;
}

/** Thinned points by columns of pixels: [x, mean of the lowest, mean of the highest] of each. */
function bandColumns(history, from, to, xOf, width) {
    const { step, low, high } = history;
    const columns = [];
    let sums = [0, 0, 0];
    let edge = -Infinity;
    for (let i = from; i <= to; i++) {
        if (!(high[i] > low[i])) continue;
        const x = xOf(step[i]);
        if (x >= edge) {
            sums = [x, 0, 0, 0];
            columns.push(sums);
            edge = x + width;
        }
        sums[1] += low[i];
        sums[2] += high[i];
        sums[3] += 1;
    }
    return columns.map(([x, lows, highs, count]) => [x, lows / count, highs / count]);
}

function fillBand(ctx, columns, yOf) {
    if (columns.length < 2) return;
    ctx.beginPath();
    for (const [x, , high] of columns) ctx.lineTo(x, yOf(high));
    for (const [x, low] of columns.reverse()) ctx.lineTo(x, yOf(low));
    ctx.fill();
}

/**
 * The loss of each step as a dot, and from lowest to highest where a point stands for several steps.
 *
 * @param {any} plot uPlot.
 * @param {import("./run_history.js").RunHistory} history
 * @param {string} color
 * @param {number} unit Pixels of the canvas to one of the page.
 */
export function drawDots(plot, history, color, unit) {
    if (!history.length) return;
    const { xOf, yOf } = pixelScales(plot);
    const [from, to] = indicesBetween(history, plot.scales.x.min, plot.scales.x.max);
    const { step, loss } = history;
    clipped(plot, (ctx) => {
        ctx.fillStyle = color;
        ctx.globalAlpha = 0.16;
        fillBand(ctx, bandColumns(history, from, to, xOf, BAND_COLUMN * unit), yOf);
        const count = to - from + 1;
        const stride = Math.ceil(count / MOST_DOTS);
        const size = dotSize(count) * unit;
        ctx.globalAlpha = count > MANY_DOTS ? 0.42 : 0.55;
        for (let i = from; i <= to; i += stride) {
            if (loss[i] === loss[i])
                ctx.fillRect(xOf(step[i]) - size / 2, yOf(loss[i]) - size / 2, size, size);
        }
    });
}

/**
 * Held-out losses: a line with a ring at each measurement, the best one filled.
 *
 * @param {any} plot
 * @param {{step: number[], loss: number[], best_step?: number}} validation
 * @param {string} color
 * @param {number} unit
 */
export function drawHeldOut(plot, validation, color, unit) {
    const steps = validation?.step ?? [];
    if (!steps.length) return;
    const { xOf, yOf } = pixelScales(plot);
    clipped(plot, (ctx) => {
        ctx.strokeStyle = ctx.fillStyle = color;
        ctx.lineWidth = 1.75 * unit;
        ctx.lineJoin = "round";
        ctx.beginPath();
        steps.forEach((step, i) => ctx.lineTo(xOf(step), yOf(validation.loss[i])));
        ctx.stroke();
        const crowded = steps.length > 40;
        steps.forEach((step, i) => {
            const isBest = step === validation.best_step;
            if (crowded && !isBest) return;
            ctx.beginPath();
            ctx.arc(xOf(step), yOf(validation.loss[i]), (isBest ? 4.2 : 2.4) * unit, 0, 2 * Math.PI);
            ctx.fill();
        });
    });
}

/**
 * Checkpoints: a dashed line with a small flag at its head.
 *
 * @param {any} plot
 * @param {{step: number}[]} checkpoints
 * @param {number|null} bestStep Its line is drawn in the colour of the best.
 * @param {{grid: string, dim: string, best: string}} colors
 * @param {number} unit
 */
export function drawCheckpoints(plot, checkpoints, bestStep, colors, unit) {
    if (!checkpoints?.length) return;
    const { xOf } = pixelScales(plot);
    const { top, height } = plot.bbox;
    clipped(plot, (ctx) => {
        ctx.lineWidth = unit;
        for (const { step } of checkpoints) {
            const x = Math.round(xOf(step)) + 0.5;
            ctx.strokeStyle = ctx.fillStyle = step === bestStep ? colors.best : colors.dim;
            ctx.globalAlpha = step === bestStep ? 0.9 : 0.45;
            ctx.setLineDash([2 * unit, 3 * unit]);
            ctx.beginPath();
            ctx.moveTo(x, top);
            ctx.lineTo(x, top + height);
            ctx.stroke();
            ctx.setLineDash([]);
            ctx.globalAlpha = 0.9;
            ctx.beginPath();
            ctx.moveTo(x - 4 * unit, top);
            ctx.lineTo(x + 4 * unit, top);
            ctx.lineTo(x, top + 5 * unit);
            ctx.fill();
        }
    });
}
