/** From where to where the axes of a loss chart go. Pure functions on columns of numbers. */

const SAMPLE = 512;
const LOWEST_SHARE = 0.02;
const HIGHEST_SHARE = 0.98;
const DECADES_APART = 100;

/** Up to SAMPLE of a column's numbers between two indices, sorted; what is no number left out. */
function sortedSample(column, from, to) {
    const stride = Math.max(1, Math.ceil((to - from + 1) / SAMPLE));
    const sample = [];
    for (let i = from; i <= to; i += stride) if (Number.isFinite(column[i])) sample.push(column[i]);
    return sample.sort((a, b) => a - b);
}

/** The value below which a share of a sorted sample lies. */
function quantile(sorted, share) {
    return sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(share * (sorted.length - 1))))];
}

/** 1, 2 or 5 times a power of ten, at least as large as a value. */
export function niceStep(value) {
    const power = 10 ** Math.floor(Math.log10(value));
    const factor = [1, 2, 5, 10].find((nice) => nice * power >= value * (1 - 1e-9));
    return factor * power;
}

/**
 * Loss axis: the middle 96 % of what is in view, so that one wild step flattens no curve, rounded outwards,
 * so that the axis stands still while points arrive.
 *
 * @param {ArrayLike<number>[]} columns
 * @param {number} from First index in view.
 * @param {number} to Last index in view.
 * @param {number[]} always Values that are in view whatever the others are (held-out losses).
 * @param {boolean} isLog
 * @returns {[number, number]}
 */
export function lossRange(columns, from, to, always, isLog) {
    let low = Infinity;
    let high = -Infinity;
    for (const column of columns) {
        const sorted = sortedSample(column, from, to).filter((value) => !isLog || value > 0);
        if (!sorted.length) continue;
        low = Math.min(low, quantile(sorted, LOWEST_SHARE));
        high = Math.max(high, quantile(sorted, HIGHEST_SHARE));
    }
    for (const value of always) {
        if (!Number.isFinite(value) || (isLog && value <= 0)) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
    }
    if (low > high) return isLog ? [0.01, 1] : [0, 1];
    return isLog ? logRange(low, high) : linearRange(low, high);
}

function logRange(low, high) {
    const span = Math.max(Math.log10(high / low), 0.1);
    const grain = span > 1 ? 4 : 16;
    const rounded = [
        Math.floor((Math.log10(low) - 0.04 * span) * grain),
        Math.ceil((Math.log10(high) + 0.04 * span) * grain),
    ];
    return [10 ** (rounded[0] / grain), 10 ** (rounded[1] / grain)];
}

function linearRange(low, high) {
    const span = high - low || Math.abs(high) * 0.2 || 1;
    const grain = niceStep(span / 8);
    const bottom = Math.floor((low - 0.06 * span) / grain) * grain;
    return [low >= 0 ? Math.max(0, bottom) : bottom, Math.ceil((high + 0.06 * span) / grain) * grain];
}

/**
 * Step axis: room for what comes next, in jumps, until the planned end is near.
 *
 * @param {number} first
 * @param {number} last
 * @param {number} planned Steps of the whole run; 0 when unknown.
 * @returns {[number, number]}
 */
export function stepRange(first, last, planned) {
    const start = Number.isFinite(first) ? Math.min(first, last) : 0;
    const span = Math.max(last - start, 10);
    const grain = niceStep(span / 4);
    const from = start < 0.1 * span ? 0 : start;
    const end = from + Math.ceil(((last - from || 1) * 1.04) / grain) * grain;
    return [from, planned > 0 && end > planned ? Math.max(planned, last, from + 1) : end];
}

/**
 * @param {ArrayLike<number>} rates
 * @returns {boolean} Whether they span decades, so that only a logarithmic axis shows them; a warm-up alone does
 *   not count.
 */
export function isLogRate(rates) {
    const sorted = sortedSample(rates, 0, rates.length - 1).filter((rate) => rate > 0);
    return sorted.length > 1 && sorted[sorted.length - 1] / quantile(sorted, 0.1) > DECADES_APART;
}

/**
 * @param {ArrayLike<number>} rates
 * @param {boolean} isLog
 * @returns {[number, number]} Learning-rate axis: from 0 with air above, or over whole decades.
 */
export function rateRange(rates, isLog) {
    const sorted = sortedSample(rates, 0, rates.length - 1).filter((rate) => rate > 0);
    if (!sorted.length) return isLog ? [1e-5, 1e-3] : [0, 1e-4];
    const high = sorted[sorted.length - 1];
    if (!isLog) return [0, niceStep(high * 1.15)];
    return [10 ** Math.floor(Math.log10(sorted[0])), 10 ** Math.ceil(Math.log10(high) + 0.1)];
}

/**
 * @param {ArrayLike<number>} sorted Ascending.
 * @param {number} value
 * @returns {number} Index of the entry nearest to the value, -1 when there is none.
 */
export function nearestIndex(sorted, value) {
    let low = 0;
    let high = sorted.length - 1;
    if (high < 0) return -1;
    while (high - low > 1) {
        const middle = (low + high) >> 1;
        if (sorted[middle] <= value) low = middle;
        else high = middle;
    }
    return Math.abs(sorted[high] - value) < Math.abs(value - sorted[low]) ? high : low;
}
