/** All trainer nodes' panels, and which run each of them shows. */

import { asksForName, eachNode, nodeOfRun } from "./graph_nodes.js";
import { NodePanel } from "./node_panel.js";
import { LIVE_STATES } from "./run_store.js";

const TRAINERS = new Set(["SDXLTrainer_TrainSDXLLoRA", "SDXLTrainer_PivotalTuning"]);
const SETTLE_MS = 50;

export class NodePanels {
    #app;
    #store;
    #makePanel;
    #presetLook;
    #made = new WeakSet();
    #panels = new Map();
    #timer = 0;

    /**
     * @param {any} app ComfyUI's app.
     * @param {import("./run_store.js").RunStore} store
     * @param {(node: any, actions: object) => import("./run_panel.js").RunPanel} makePanel
     * @param {(node: any, options: object) => object|null} presetLook
     */
    constructor(app, store, makePanel, presetLook) {
        this.#app = app;
        this.#store = store;
        this.#makePanel = makePanel;
        this.#presetLook = presetLook;
        store.addEventListener("runs", () => this.bind());
        store.addEventListener("run", () => this.bind());
    }

    /** @param {any} node Any new node; a trainer gets its panel. */
    nodeCreated(node) {
        if (!TRAINERS.has(node.comfyClass) || this.#made.has(node)) return;
        this.#made.add(node);
        const panel = new NodePanel(
            this.#app,
            node,
            (actions) => this.#makePanel(node, actions),
            this.#presetLook,
        );
        const { onAdded, onRemoved } = node;
        node.onAdded = (...args) => {
            onAdded?.apply(node, args);
            this.#start(node, panel);
        };
        node.onRemoved = (...args) => {
            onRemoved?.apply(node, args);
            this.#panels.delete(node);
            panel.stop();
        };
        if (node.graph) this.#start(node, panel);
    }

    #start(node, panel) {
        this.#panels.set(node, panel);
        panel.start();
        this.bind();
    }

    /** Looks anew which run is whose, once the graph has settled: a node gets its id after it is made. */
    bind() {
        if (this.#timer || !this.#panels.size) return;
        this.#timer = setTimeout(() => {
            this.#timer = 0;
            this.#bind();
        }, SETTLE_MS);
    }

    #bind() {
        const found = new Map();
        for (const state of this.#store.runs()) {
            const node = nodeOfRun(this.#app, state);
            if (!this.#panels.has(node) || !this.#isOf(node, state)) continue;
            const other = found.get(node);
            if (!other || isNewer(state, other)) found.set(node, state);
        }
        for (const [node, panel] of this.#panels) {
            const id = found.get(node)?.id ?? "";
            if (id !== panel.panel.runId) panel.show(id);
        }
    }

    /** A run under way is its node's; one that has ended as long as the node shows it, or asks for its name. */
    #isOf(node, state) {
        const isShown = this.#panels.get(node).panel.runId === state.id;
        return LIVE_STATES.has(state.state) || isShown || asksForName(node, state.name);
    }

    /** @param {string} runId @returns {any|null} The trainer node of a run in the open workflow. */
    nodeOf(runId) {
        let found = null;
        eachNode(this.#app, (node) => {
            if (this.#panels.get(node)?.panel.runId === runId) found = node;
        });
        return found;
    }
}

/** A run of this server process before one that only lies on the disk, then the one started later. */
function isNewer(state, other) {
    const isLive = (each) => !each.id.startsWith("earlier:");
    if (isLive(state) !== isLive(other)) return isLive(state);
    return (state.started ?? 0) > (other.started ?? 0);
}
