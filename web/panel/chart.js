/**
 * The loss chart of one run over uPlot. New points only reach setData; uPlot is made anew when what it is made
 * of changes.
 */

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { drawCheckpoints, drawDots, drawHeldOut, indicesBetween } from "./chart_layers.js";
import { chartOptions } from "./chart_options.js";
import { isLogRate, lossRange, nearestIndex, rateRange, stepRange } from "./chart_scales.js";
import { make } from "./elements.js";
import { chartColors } from "./theme.js";

const SHARPEST = 3;
const MARK_REACH = 6;

/**
 * @typedef {object} ChartRun
 * @property {import("./run_history.js").RunHistory} history
 * @property {{step: number[], loss: number[], best_step?: number}} [validation]
 * @property {{step: number, file: string}[]} [checkpoints]
 * @property {number} [numSteps]
 * @property {number|null} [bestStep]
 */

/**
 * @typedef {object} ChartPoint What stands under the mouse, or newest when there is none.
 * @property {number|null} step
 * @property {number} loss
 * @property {number} smoothed
 * @property {number} rate
 * @property {number|null} heldOut
 * @property {{step: number, file: string}|null} checkpoint
 * @property {boolean} isHovered
 */

export class LossChart {
    #host;
    #plotBox;
    #run = null;
    #smoothing = 0.95;
    #isLog = false;
    #sharpness = 1;
    #made = "";
    #colors = null;
    #size = [0, 0];
    #isZoomed = false;
    #inView = [0, 1];
    #onPoint;

    /**
     * @param {HTMLElement} host Gives the chart its size.
     * @param {{onPoint?: (point: ChartPoint) => void}} [listeners]
     */
    constructor(host, { onPoint = () => {} } = {}) {
        this.#host = host;
        this.#onPoint = onPoint;
        this.#plotBox = make("div", { class: "sdxlt-plot" });
        host.classList.add("sdxlt-chart");
        host.append(this.#plotBox);
        this.uplot = null;
    }

    /** @param {ChartRun} run Another run, or this one fetched anew. A zoom is given up. */
    setRun(run) {
        this.#isZoomed = false;
        this.update(run);
    }

    /** @param {ChartRun} run The same run after points were added. */
    update(run) {
        this.#run = run;
        this.#draw();
    }

    /** @param {number} weight 0 to 0.99. */
    setSmoothing(weight) {
        this.#smoothing = Math.min(0.99, Math.max(0, weight));
        this.#draw();
    }

    /** @param {boolean} isLog Whether the loss axis is logarithmic. */
    setLog(isLog) {
        this.#isLog = isLog;
        this.#draw();
    }

    /** @param {number} scale How much larger than its own size the page shows the chart, as zoomed canvases do. */
    setZoom(scale) {
        const wanted = Math.min(SHARPEST, Math.max(1, Math.ceil(scale * 2 - 0.2) / 2));
        if (wanted === this.#sharpness) return;
        this.#sharpness = wanted;
        this.#draw();
    }

    /** Takes the host's present size. */
    resize() {
        const size = [this.#host.clientWidth, this.#host.clientHeight];
        if (size[0] === this.#size[0] && size[1] === this.#size[1]) return;
        this.#size = size;
        if (this.uplot && size[0] > 0)
            this.uplot.setSize({ width: size[0] * this.#sharpness, height: size[1] * this.#sharpness });
        // what came while the element was out of the page or hidden
        this.#draw();
    }

    /** Reads the colours of the theme anew. */
    redraw() {
        this.#colors = null;
        this.#draw();
    }

    /** Lets go of what uPlot holds of the window; the next run drawn makes it anew. */
    rest() {
        this.uplot?.destroy();
        this.uplot = null;
        this.#run = null;
    }

    destroy() {
        this.rest();
        this.#plotBox.remove();
    }

    #draw() {
        if (!this.#run || !this.#host.isConnected) return;
        if (this.#size[0] === 0) this.#size = [this.#host.clientWidth, this.#host.clientHeight];
        if (this.#size[0] < 40 || this.#size[1] < 40) return;
        this.#colors ??= chartColors(this.#host);
        const { history } = this.#run;
        const rates = history.column("rate");
        const data = [history.column("step"), rates, history.smoothed(this.#smoothing)];
        const logRate = isLogRate(rates);
        const made = JSON.stringify([
            this.#colors,
            this.#isLog,
            logRate,
            this.#sharpness,
            this.#size[0] > 250,
        ]);
        if (this.uplot && made === this.#made) this.#setData(data);
        else this.#make(data, logRate, made);
        this.#host.dataset.points = String(history.length);
        this.#host.dataset.lastStep = String(history.length ? history.lastStep : "");
        this.#host.dataset.checkpoints = String(this.#run.checkpoints?.length ?? 0);
        this.#tellPoint();
    }

    /** At once, as uPlot by itself would draw in a microtask. */
    #setData(data) {
        const { min, max } = this.uplot.scales.x;
        this.uplot.batch(() => {
            this.uplot.setData(data, !this.#isZoomed);
            if (this.#isZoomed) this.uplot.setScale("x", { min, max });
        });
    }

    #make(data, logRate, made) {
        this.uplot?.destroy();
        this.#made = made;
        this.#isZoomed = false;
        const options = chartOptions({
            width: this.#size[0],
            height: this.#size[1],
            sharpness: this.#sharpness,
            colors: this.#colors,
            isLog: this.#isLog,
            isLogRate: logRate,
            ranges: this.#ranges(logRate),
            hooks: this.#hooks(),
        });
        this.#plotBox.style.transform = this.#sharpness === 1 ? "" : `scale(${1 / this.#sharpness})`;
        this.uplot = new uPlot(options, data, this.#plotBox);
        this.uplot.batch(() => {});
    }

    #ranges(logRate) {
        return {
            x: (_plot, low, high) => this.#stepRange(low, high),
            y: () => this.#lossRange(),
            rate: () => rateRange(this.#run.history.column("rate"), logRate),
        };
    }

    /** The part zoomed into, or the whole run where uPlot asks for all of the data. */
    #stepRange(low, high) {
        const steps = this.#run.history.column("step");
        const first = steps.length ? steps[0] : 0;
        const last = steps.length ? steps[steps.length - 1] : 0;
        this.#isZoomed = steps.length > 1 && low !== null && (low > first || high < last);
        this.#inView = this.#isZoomed ? [low, high] : stepRange(first, last, this.#run.numSteps ?? 0);
        return this.#inView;
    }

    /** uPlot ranges the steps first, but keeps them to itself until all scales are done. */
    #lossRange() {
        const { history, validation } = this.#run;
        const [low, high] = this.#inView;
        const [from, to] = indicesBetween(history, low, high);
        const isInView = (_, i) => validation.step[i] >= low && validation.step[i] <= high;
        const heldOut = (validation?.loss ?? []).filter(isInView);
        return lossRange([history.loss, history.smoothed(this.#smoothing)], from, to, heldOut, this.#isLog);
    }

    #hooks() {
        const unit = () => this.#sharpness * (window.devicePixelRatio || 1);
        return {
            drawAxes: [(plot) => drawDots(plot, this.#run.history, this.#colors.loss, unit())],
            draw: [
                (plot) => drawHeldOut(plot, this.#run.validation, this.#colors.held, unit()),
                (plot) =>
                    drawCheckpoints(
                        plot,
                        this.#run.checkpoints,
                        this.#run.bestStep ?? null,
                        this.#colors,
                        unit(),
                    ),
            ],
            setCursor: [() => this.#tellPoint()],
        };
    }

    #tellPoint() {
        const { history } = this.#run;
        const left = this.uplot?.cursor.left ?? -1;
        const isHovered = left >= 0 && history.length > 0;
        const value = isHovered ? this.uplot.posToVal(left, "x") : Infinity;
        const i = isHovered ? nearestIndex(history.column("step"), value) : history.length - 1;
        const step = i >= 0 ? history.step[i] : null;
        this.#onPoint({
            step,
            loss: i >= 0 ? history.loss[i] : NaN,
            smoothed: i >= 0 ? history.smoothed(this.#smoothing)[i] : NaN,
            rate: i >= 0 ? history.rate[i] : NaN,
            heldOut: this.#heldOutAt(step),
            checkpoint: isHovered ? this.#checkpointAt(left) : null,
            isHovered,
        });
    }

    /** Newest held-out loss measured at a step or before it. */
    #heldOutAt(step) {
        const { step: steps = [], loss = [] } = this.#run.validation ?? {};
        let found = null;
        for (let i = 0; i < steps.length && step !== null && steps[i] <= step; i++) found = loss[i];
        return found;
    }

    #checkpointAt(left) {
        const near = (checkpoint) =>
            Math.abs(this.uplot.valToPos(checkpoint.step, "x") - left) <= MARK_REACH * this.#sharpness;
        return this.#run.checkpoints?.find(near) ?? null;
    }
}
