/**
 * What this browser knows of the runs: their light states, and of those that somebody looks at the whole curve.
 * Filled by events; whenever one was missed, the whole state is fetched again, so that a reload, a second tab
 * and a lost connection all end at the same picture. Knows nothing of the page.
 */

import { RunHistory } from "./run_history.js";

const RUN_EVENT = "sdxl_trainer.run";
export const LIVE_STATES = new Set(["preparing", "training", "measuring", "sampling", "saving", "paused"]);
const ROUTE = "/sdxl_trainer/runs";
const MOST_POINTS = 4000;
const RETRY_MS = 500;
const KNOWN_ID = /^([0-9a-f]{16}|earlier:.+)$/s;

/**
 * @typedef {object} Run
 * @property {object} state Light state, with validation, checkpoints and previews once loaded.
 * @property {RunHistory} history
 * @property {boolean} isLoaded Whether history is whole and follows the events.
 */

export class RunStore extends EventTarget {
    #fetchApi;
    #events;
    #runs = new Map();
    #lookers = new Map();
    #loading = new Map();
    #order = [];

    /** @param {{fetchApi: (path: string, options?: object) => Promise<Response>, events: EventTarget}} server */
    constructor({ fetchApi, events }) {
        super();
        /** @type {boolean} Whether events arrive; told as "connection" when it changes. */
        this.isConnected = true;
        this.#fetchApi = fetchApi;
        this.#events = events;
    }

    /** Begins to listen and fetches the list of runs. @returns {Promise<void>} When the list is there. */
    start() {
        this.#events.addEventListener(RUN_EVENT, (event) => this.#take(event.detail));
        this.#events.addEventListener("reconnecting", () => this.#connect(false));
        this.#events.addEventListener("reconnected", () => {
            this.#connect(true);
            this.refresh();
        });
        return this.refresh();
    }

    /** Fetches the list and every run that is looked at. @returns {Promise<void>} */
    async refresh() {
        const listed = await this.#get(ROUTE);
        if (!Array.isArray(listed?.runs)) return;
        this.#order = listed.runs.filter((state) => KNOWN_ID.test(state?.id ?? "")).map((state) => state.id);
        for (const id of [...this.#runs.keys()]) if (!this.#order.includes(id)) this.#forget(id);
        for (const state of listed.runs) if (KNOWN_ID.test(state?.id ?? "")) this.#setLight(state);
        this.#tell("runs");
        await Promise.all(
            [...this.#lookers.keys()].filter((id) => this.#runs.has(id)).map((id) => this.load(id)),
        );
    }

    /** @returns {object[]} Light states, newest first. */
    runs() {
        return this.#order.map((id) => this.#runs.get(id)?.state).filter(Boolean);
    }

    /** @param {string} id @returns {Run|undefined} */
    run(id) {
        return this.#runs.get(id);
    }

    /** Holds a run's curve up to date until release is called as often. @param {string} id */
    keep(id) {
        this.#lookers.set(id, (this.#lookers.get(id) ?? 0) + 1);
        if (this.#runs.get(id)?.isLoaded === false) this.load(id);
    }

    /** @param {string} id */
    release(id) {
        const left = (this.#lookers.get(id) ?? 0) - 1;
        if (left > 0) this.#lookers.set(id, left);
        else this.#lookers.delete(id);
        const run = this.#runs.get(id);
        if (left <= 0 && run) run.isLoaded = false;
    }

    /**
     * Fetches the whole state; a second call while one is under way waits for that one.
     *
     * @param {string} id
     * @returns {Promise<void>}
     */
    load(id) {
        if (!this.#loading.has(id)) {
            const done = this.#load(id).finally(() => this.#loading.delete(id));
            this.#loading.set(id, done);
        }
        return this.#loading.get(id);
    }

    /**
     * @param {string} id
     * @param {"finish"|"pause"|"go_on"|"sample"|"save"} wish
     * @returns {Promise<string|null>} "" when it was taken, otherwise why not; null when nobody answered.
     */
    async wish(id, wish) {
        const options = {
            method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify({ wish }),
        };
        const response = await this.#fetchApi(`${ROUTE}/${encodeURIComponent(id)}/wishes`, options).catch(
            () => null,
        );
        const answer = await response?.json().catch(() => null);
        if (response?.ok && answer?.id === id) {
            const run = this.#runs.get(id);
            // the event of the same revision, which brings points, may still be on its way
            if (run && answer.revision >= run.state.revision)
                this.#change(run, { ...answer, revision: run.state.revision });
            this.#tell("run", id);
            return "";
        }
        return answer?.error ?? null;
    }

    async #load(id) {
        const before = this.#runs.get(id);
        if (before) before.missed = [];
        const whole = await this.#get(`${ROUTE}/${encodeURIComponent(id)}`);
        if (whole?.id !== id) {
            if (before) Object.assign(before, { missed: null, isLoaded: false });
            return;
        }
        const { history, ...state } = whole;
        const run = this.#runs.get(id) ?? this.#add(state);
        run.history.replace(history ?? { step: [] });
        let revision = state.revision;
        for (const event of (run.missed ?? []).filter((missed) => missed.revision > state.revision)) {
            if (event.revision === revision + 1) revision = event.revision;
            run.history.append(event.points);
        }
        run.missed = null;
        if (state.revision >= run.state.revision) this.#change(run, state);
        run.isLoaded = this.#lookers.has(id) && revision >= run.state.revision;
        this.#tell("run", id);
        if (this.#lookers.has(id) && !run.isLoaded) setTimeout(() => this.load(id), RETRY_MS);
    }

    #take(event) {
        if (!KNOWN_ID.test(event?.id ?? "") || !Number.isInteger(event.revision)) return;
        const { points, ...state } = event;
        const known = this.#runs.get(event.id);
        if (known && state.revision <= known.state.revision) return;
        const isNext = known?.state.revision === state.revision - 1;
        const run = known ?? this.#add(state);
        if (known) this.#change(run, state);
        else this.#tell("runs");
        if (run.missed) run.missed.push({ revision: state.revision, points });
        else if (run.isLoaded && isNext) run.history.append(points);
        else run.isLoaded = false;
        this.#tell("run", event.id);
        if (this.#lookers.has(event.id) && (!run.isLoaded || run.history.length > MOST_POINTS))
            this.load(event.id);
    }

    /** A state of the list: it comes without points, so a newer one leaves the curve behind. */
    #setLight(state) {
        const run = this.#runs.get(state.id);
        if (!run) this.#add(state);
        else if (state.revision >= run.state.revision) {
            if (state.revision > run.state.revision) run.isLoaded = false;
            this.#change(run, state);
        }
    }

    #change(run, state) {
        const wasLive = LIVE_STATES.has(run.state.state);
        run.state = { ...run.state, ...state };
        if (wasLive && run.state.state === "done") this.#tell("done", run.state.id);
    }

    #add(state) {
        const run = { state: { ...state }, history: new RunHistory(), isLoaded: false, missed: null };
        this.#runs.set(state.id, run);
        if (!this.#order.includes(state.id)) this.#order.unshift(state.id);
        return run;
    }

    #forget(id) {
        this.#runs.delete(id);
        this.#tell("run", id);
    }

    async #get(path) {
        const response = await this.#fetchApi(path).catch(() => null);
        return response?.ok ? response.json().catch(() => null) : null;
    }

    #connect(isConnected) {
        if (isConnected === this.isConnected) return;
        this.isConnected = isConnected;
        this.#tell("connection");
    }

    #tell(type, id = "") {
        this.dispatchEvent(new CustomEvent(type, { detail: { id } }));
    }
}
