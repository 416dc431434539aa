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
    #isLifted = false;

    /**
     * @param {any} app ComfyUI's app.
     * @param {any} node A trainer node.
     * @param {(actions: object) => import("./run_panel.js").RunPanel} makePanel Given what depends on the node.
     * @param {(node: any, options: {onHeight: () => void}) => object} presetLook What stands here before any run.
     */
    constructor(app, node, makePanel, presetLook) {
        this.#app = app;
        this.node = node;
        this.panel = makePanel({ onHeight: () => this.#fit(), onTurn: () => this.#turned() });
        this.#look = presetLook(node, { onHeight: () => this.#fit() });
        if (this.#look) this.panel.idle.append(this.#look.element);
        this.#addWidget();
        this.#passToCanvas();
    }

    /** Once the node is in a graph: a copy on its way to the clipboard never is. */
    start() {
        this.panel.start();
        this.#look?.start();
        this.#turned();
    }

    stop() {
        cancelAnimationFrame(this.#frame);
        this.#frame = 0;
        this.#look?.show(false);
        this.#look?.stop();
        this.panel.stop();
    }

    /** @param {string} runId "" for none. */
    show(runId) {
        this.panel.show(runId);
        this.#turned();
    }

    #turned() {
        this.#look?.show(this.panel.showsIdle);
        this.#fit();
    }

    #height() {
        const idle = this.#look && this.panel.showsIdle ? Math.min(HIGHEST_IDLE, this.#look.height()) : 0;
        return this.panel.minHeight() + idle;
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
        const { element } = this.panel;
        const height = this.#height() + MARGIN;
        if (!isClassic() && element.offsetHeight > 0 && element.offsetHeight < height) this.#lift();
        element.style.minHeight = isClassic() ? "" : `${height}px`;
        element.style.paddingTop = isClassic() ? "" : `${MARGIN / 2}px`;
        if (this.#frame) return;
        this.#frame = requestAnimationFrame(() => {
            this.#frame = 0;
            const { node } = this;
            if (!node.graph) return;
            const needed = node.computeSize()[1];
            if (isClassic() && node.size[1] < needed) {
                node.setSize([node.size[0], needed]);
                this.#lift();
            }
            node.graph.setDirtyCanvas?.(true, true);
        });
    }

    /** What the node grew over lies under it, not over its buttons; once, as afterwards its user may think else. */
    #lift() {
        if (this.#isLifted) return;
        this.#isLifted = true;
        if (isClassic()) this.#app.canvas?.bringToFront?.(this.node);
        else liftAboveOthers(this.panel.element);
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

/** Nodes 2.0 keeps its order to itself: the style sheet lifts the node until a click makes core do so. */
function liftAboveOthers(panel) {
    panel.dataset.front = "true";
    const settle = ({ target }) => {
        const clicked = target.closest?.(".lg-node");
        const own = panel.closest(".lg-node");
        if (own && (!clicked || !meet(clicked.getBoundingClientRect(), own.getBoundingClientRect()))) return;
        panel.dataset.front = "false";
        document.removeEventListener("pointerdown", settle, true);
    };
    document.addEventListener("pointerdown", settle, true);
}

function meet(one, other) {
    const isBeside = one.right < other.left || other.right < one.left;
    return !isBeside && one.top <= other.bottom && other.top <= one.bottom;
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
