/** The panel on a trainer node: a DOM widget that the classic canvas and Nodes 2.0 both carry. */

const WIDGET = "sdxl_trainer_panel";
const MARGIN = 10;
const HIGHEST_IDLE = 400;
const MIDDLE_BUTTON = 1;

/** The classic canvas does not see what happens over a DOM widget; Nodes 2.0 hears it by itself. */
function isClassic() {
    return !window.LiteGraph?.vueNodesMode;
}

export class NodePanel {
    #app;
    #look;
    #frame = 0;

    /**
     * @param {any} app ComfyUI's app.
     * @param {any} node A trainer node.
     * @param {(actions: object) => import("./run_panel.js").RunPanel} makePanel Given what depends on the node.
     * @param {(node: any, options: {onHeight: () => void}) => object} presetLook What stands here before any run.
     */
    constructor(app, node, makePanel, presetLook) {
        this.#app = app;
        this.node = node;
        this.panel = makePanel({ onHeight: () => this.#fit() });
        this.#look = presetLook(node, { onHeight: () => this.#fit() });
        if (this.#look) this.panel.idle.append(this.#look.element);
        this.#look?.show(true);
        this.#addWidget();
        this.#passToCanvas();
        const onRemoved = node.onRemoved;
        node.onRemoved = (...args) => {
            onRemoved?.apply(node, args);
            this.destroy();
        };
        /** @type {() => void} */
        this.onDestroyed = () => {};
    }

    /** @param {string} runId "" for none. */
    show(runId) {
        this.panel.show(runId);
        this.#look?.show(!this.panel.runId);
        this.#fit();
    }

    destroy() {
        cancelAnimationFrame(this.#frame);
        this.#look?.destroy();
        this.panel.destroy();
        this.onDestroyed();
    }

    #height() {
        const idle = this.#look ? Math.min(HIGHEST_IDLE, this.#look.height()) : 0;
        return this.panel.minHeight() || idle;
    }

    #addWidget() {
        const { element } = this.panel;
        const options = {
            serialize: false,
            hideOnZoom: false,
            margin: MARGIN,
            getMinHeight: () => this.#height() + 2 * MARGIN,
            getValue: () => "",
            setValue: () => {},
        };
        this.widget = this.node.addDOMWidget(WIDGET, "SDXL_TRAINER_PANEL", element, options);
        this.widget.serialize = false;
    }

    /** Lets the node grow where its parts need more; a node is never made smaller than its user made it. */
    #fit() {
        // Nodes 2.0 asks no widget for its height, and puts no margin around it
        this.panel.element.style.minHeight = isClassic() ? "" : `${this.#height() + MARGIN}px`;
        this.panel.element.style.paddingTop = isClassic() ? "" : `${MARGIN / 2}px`;
        if (this.#frame) return;
        this.#frame = requestAnimationFrame(() => {
            this.#frame = 0;
            const { node } = this;
            if (!node.graph) return;
            const needed = node.computeSize()[1];
            if (isClassic() && node.size[1] < needed) node.setSize([node.size[0], needed]);
            node.graph.setDirtyCanvas?.(true, true);
        });
    }

    #passToCanvas() {
        const { element } = this.panel;
        element.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
        const passed = {
            pointerdown: "processMouseDown",
            pointermove: "processMouseMove",
            pointerup: "processMouseUp",
        };
        for (const [type, method] of Object.entries(passed)) {
            element.addEventListener(type, (event) => {
                const isMiddle =
                    type === "pointermove" ? (event.buttons & 4) === 4 : event.button === MIDDLE_BUTTON;
                if (isMiddle && isClassic()) this.#app.canvas[method](event);
            });
        }
    }

    /** What scrolls keeps the wheel; everywhere else it zooms the canvas. */
    #wheel(event) {
        const scroller = event.ctrlKey ? null : event.target.closest(".sdxlt-scroll");
        if (scroller && scroller.scrollWidth > scroller.clientWidth) {
            scroller.scrollLeft += event.deltaX || event.deltaY;
            event.preventDefault();
            event.stopPropagation();
            return;
        }
        if (scrollsDown(event.target, element(event), event.ctrlKey)) {
            event.stopPropagation();
            return;
        }
        if (!isClassic()) return;
        event.preventDefault();
        event.stopPropagation();
        this.#app.canvas.processMouseWheel(event);
    }
}

/** @returns {Element} Where the listener stands. */
function element(event) {
    return event.currentTarget;
}

/** Whether something between a target and the panel scrolls up and down. */
function scrollsDown(target, root, isZoom) {
    if (isZoom) return false;
    for (let at = target; at && at !== root.parentElement; at = at.parentElement) {
        if (at.scrollHeight <= at.clientHeight + 1) continue;
        if (/auto|scroll/.test(getComputedStyle(at).overflowY)) return true;
    }
    return false;
}
