/** A new ApplyLoRA node beside a trainer, or in the middle of what is seen, with the LoRA of a run chosen. */

const APPLY = "SDXLTrainer_ApplyLoRA";
const GAP = 60;

/** @returns {boolean} Whether a rectangle meets any node. */
function isTaken(graph, [x, y], [width, height]) {
    return (graph.nodes ?? graph._nodes ?? []).some(
        ({ pos, size }) =>
            x < pos[0] + size[0] &&
            pos[0] < x + width &&
            y < pos[1] + size[1] + GAP &&
            pos[1] - GAP < y + height,
    );
}

/** The highest free place in the column to the right of a node. */
function freePlace(node, size) {
    const place = [node.pos[0] + node.size[0] + GAP, node.pos[1]];
    while (isTaken(node.graph, place, size)) place[1] += GAP;
    return place;
}

/** Where a node of a size stands in the middle of what the canvas shows. */
function centreOf(canvas, size) {
    const [left, top, width, height] = canvas.visible_area;
    return [left + (width - size[0]) / 2, top + (height - size[1]) / 2];
}

/**
 * Loaders list a file that was made just now.
 *
 * @param {any} app ComfyUI's app.
 * @returns {Promise<void>}
 */
export async function refreshLists(app) {
    // refreshComboInNodes, the older name, says so in two toasts of its own
    await (app.reloadNodeDefs?.() ?? app.refreshComboInNodes());
}

/**
 * @param {any} app ComfyUI's app.
 * @param {any|null} trainer The trainer node; the new one stands beside it when its graph is the open one.
 * @param {string} loraFile As LoRA loaders list it.
 * @returns {Promise<any|null>} The node; null when this ComfyUI does not know its type.
 */
export async function addApplyNode(app, trainer, loraFile) {
    await refreshLists(app);
    const node = window.LiteGraph.createNode(APPLY);
    if (!node) return null;
    const graph = app.canvas.graph ?? app.graph;
    const isBeside = Boolean(trainer) && trainer.graph === graph;
    node.pos = isBeside ? freePlace(trainer, node.size) : centreOf(app.canvas, node.size);
    graph.add(node);
    const widget = node.widgets?.find(({ name }) => name === "lora_name");
    if (widget) {
        widget.value = matching(widget.options?.values, loraFile);
        widget.callback?.(widget.value);
    }
    app.canvas.selectNode?.(node, false);
    graph.setDirtyCanvas(true, true);
    return node;
}

/** The list's own writing of a name: on Windows it has backslashes. */
function matching(values, name) {
    const same = (value) => String(value).replaceAll("\\", "/") === name.replaceAll("\\", "/");
    return (Array.isArray(values) ? values.find(same) : null) ?? name;
}
