/** Numbers as people read them. Pure functions; a missing number gives "". */

const MINUTE = 60;
const HOUR = 3600;
const DAY = 86400;
const GIGABYTE = 1024 ** 3;
const MEGABYTE = 1024 ** 2;

/** @param {unknown} value @returns {value is number} */
function isNumber(value) {
    return typeof value === "number" && Number.isFinite(value);
}

/**
 * @param {number|null|undefined} seconds
 * @returns {string} "8 s", "3:07 min", "1:02:10 h", "1 d 4 h".
 */
export function duration(seconds) {
    if (!isNumber(seconds) || seconds < 0) return "";
    const whole = Math.round(seconds);
    if (whole < MINUTE) return `${whole} s`;
    const pair = (value) => String(Math.floor(value)).padStart(2, "0");
    if (whole < HOUR) return `${Math.floor(whole / MINUTE)}:${pair(whole % MINUTE)} min`;
    if (whole >= DAY) return `${Math.floor(whole / DAY)} d ${Math.floor((whole % DAY) / HOUR)} h`;
    return `${Math.floor(whole / HOUR)}:${pair((whole % HOUR) / MINUTE)} h`;
}

/**
 * @param {number|null|undefined} count Bytes.
 * @returns {string} "11.3 GB" or "640 MB".
 */
export function bytes(count) {
    if (!isNumber(count) || count < 0) return "";
    if (count >= GIGABYTE) return `${(count / GIGABYTE).toFixed(count >= 100 * GIGABYTE ? 0 : 1)} GB`;
    return `${Math.round(count / MEGABYTE)} MB`;
}

/** @param {number|null|undefined} value A loss; @returns {string} Three to four figures that matter. */
export function lossText(value) {
    if (!isNumber(value)) return "";
    const size = Math.abs(value);
    if (size !== 0 && (size < 0.001 || size >= 10000)) return value.toExponential(2);
    return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 4);
}

/** @param {number|null|undefined} value A learning rate; @returns {string} "1e-4", "2.5e-5", "0". */
export function rateText(value) {
    if (!isNumber(value)) return "";
    if (value === 0) return "0";
    if (value >= 0.01 && value < 1000) return String(Number(value.toPrecision(3)));
    const [digits, power] = value.toExponential(2).split("e");
    return `${Number(digits)}e${Number(power)}`;
}

/** @param {number|null|undefined} value Seconds; @returns {string} "0.42", "1.6", "12". */
export function secondsPerStep(value) {
    if (!isNumber(value) || value < 0) return "";
    return value.toFixed(value < 1 ? 2 : value < 10 ? 1 : 0);
}

/**
 * @param {number} part
 * @param {number} whole
 * @returns {number} 0 to 100, whole; 100 only when all is done.
 */
export function percent(part, whole) {
    if (!isNumber(part) || !isNumber(whole) || whole <= 0) return 0;
    if (part >= whole) return 100;
    return Math.max(0, Math.min(99, Math.floor((100 * part) / whole)));
}

/** @param {number} value A count; @returns {string} With thin spaces between thousands: "20 000". */
export function countText(value) {
    if (!isNumber(value)) return "";
    return String(Math.round(value)).replace(/\B(?=(\d{3})+(?!\d))/g, "\u2009");
}
