/** All trainer nodes' panels, and which run each of them shows. */

import { eachNode, nodeOfRun } from "./graph_nodes.js";
import { NodePanel } from "./node_panel.js";

const TRAINERS = new Set(["SDXLTrainer_TrainSDXLLoRA", "SDXLTrainer_PivotalTuning"]);
const SETTLE_MS = 50;

export class NodePanels {
    #app;
    #store;
    #makePanel;
    #presetLook;
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
        if (!TRAINERS.has(node.comfyClass) || this.#panels.has(node)) return;
        const panel = new NodePanel(
            this.#app,
            node,
            (actions) => this.#makePanel(node, actions),
            this.#presetLook,
        );
        panel.onDestroyed = () => this.#panels.delete(node);
        this.#panels.set(node, panel);
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
            const other = found.get(node);
            if (this.#panels.has(node) && (!other || isNewer(state, other))) found.set(node, state);
        }
        for (const [node, panel] of this.#panels) {
            const id = found.get(node)?.id ?? "";
            if (id !== panel.panel.runId) panel.show(id);
        }
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
