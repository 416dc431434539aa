/** The curve of one run in typed columns that grow, so that a new point costs no copy of the old ones. */

const COLUMNS = ["step", "loss", "low", "high", "rate"];
const FIRST_CAPACITY = 1024;
const STEPS_OF_UNIT = 1000;

/** A missing number as NaN, which columns of floats can hold. */
function numberOr(value, fallback = NaN) {
    return typeof value === "number" && Number.isFinite(value) ? value : fallback;
}

export class RunHistory {
    #smooth = new Float64Array(0);
    #smoothed = 0;
    #weight = -1;
    #unit = 1;
    #average = 0;
    #correction = 1;

    /** @param {number} [capacity] Points that fit before the columns grow. */
    constructor(capacity = FIRST_CAPACITY) {
        this.length = 0;
        for (const name of COLUMNS) this[name] = new Float64Array(capacity);
    }

    /** @returns {number} The newest step, -Infinity when there is none. */
    get lastStep() {
        return this.length ? this.step[this.length - 1] : -Infinity;
    }

    /**
     * Takes a whole curve in place of what is here.
     *
     * @param {Record<"step"|"loss"|"low"|"high"|"learning_rate", (number|null)[]>} curve low and high may lack.
     */
    replace(curve) {
        this.length = 0;
        this.#smoothed = 0;
        this.append(curve);
    }

    /**
     * @param {object} curve As for replace; steps at or before the newest one are left out, as they came before.
     * @returns {number} How many points were taken.
     */
    append(curve) {
        const steps = curve?.step ?? [];
        this.#reserve(this.length + steps.length);
        let taken = 0;
        for (let i = 0; i < steps.length; i++) {
            if (!(steps[i] > this.lastStep)) continue;
            const at = this.length;
            this.step[at] = steps[i];
            this.loss[at] = numberOr(curve.loss?.[i]);
            this.low[at] = numberOr(curve.low?.[i], this.loss[at]);
            this.high[at] = numberOr(curve.high?.[i], this.loss[at]);
            this.rate[at] = numberOr(curve.learning_rate?.[i], at ? this.rate[at - 1] : NaN);
            this.length = at + 1;
            taken += 1;
        }
        return taken;
    }

    /** @param {string} name Of a column. @returns {Float64Array} A view of its points. */
    column(name) {
        return this[name].subarray(0, this.length);
    }

    /**
     * Exponential average without the pull to zero at its start. Only new points are worked out. The weight is
     * that of one step, of two, four ... steps in runs longer than 1,000 of them: a thinned curve and the same one with
     * all its points are smoothed alike, and long ones as visibly as short ones.
     *
     * @param {number} weight 0 (the curve itself) to 0.99 (very smooth).
     * @returns {Float64Array} A view with one value for each point.
     */
    smoothed(weight) {
        const span = this.length ? this.step[this.length - 1] - this.step[0] : 0;
        const unit = 2 ** Math.ceil(Math.log2(Math.max(1, span / STEPS_OF_UNIT)));
        if (weight !== this.#weight || unit !== this.#unit || this.#smoothed > this.length) {
            this.#weight = weight;
            this.#unit = unit;
            this.#smoothed = 0;
        }
        if (this.#smoothed === 0) {
            this.#average = 0;
            this.#correction = 1;
        }
        if (this.#smooth.length < this.step.length) {
            const grown = new Float64Array(this.step.length);
            grown.set(this.#smooth.subarray(0, this.#smoothed));
            this.#smooth = grown;
        }
        for (let i = this.#smoothed; i < this.length; i++) {
            if (!Number.isNaN(this.loss[i])) {
                const distance = i ? this.step[i] - this.step[i - 1] : 1;
                const kept = weight ** (distance / unit);
                this.#average = kept * this.#average + (1 - kept) * this.loss[i];
                this.#correction *= kept;
            }
            this.#smooth[i] = this.#correction === 1 ? NaN : this.#average / (1 - this.#correction);
        }
        this.#smoothed = this.length;
        return this.#smooth.subarray(0, this.length);
    }

    #reserve(count) {
        if (count <= this.step.length) return;
        const capacity = Math.max(count, 2 * this.step.length);
        for (const name of COLUMNS) {
            const grown = new Float64Array(capacity);
            grown.set(this[name].subarray(0, this.length));
            this[name] = grown;
        }
    }
}
