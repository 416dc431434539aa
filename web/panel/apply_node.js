/** A new ApplyLoRA node beside a trainer, with the LoRA of its run chosen. */

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
 * @param {any} trainer The trainer node; the new one goes into its graph, also inside of a subgraph.
 * @param {string} loraFile As LoRA loaders list it.
 * @returns {Promise<any|null>} The node; null when this ComfyUI does not know its type.
 */
export async function addApplyNode(app, trainer, loraFile) {
    await refreshLists(app);
    const node = window.LiteGraph.createNode(APPLY);
    if (!node) return null;
    node.pos = freePlace(trainer, node.size);
    trainer.graph.add(node);
    const widget = node.widgets?.find(({ name }) => name === "lora_name");
    if (widget) {
        widget.value = matching(widget.options?.values, loraFile);
        widget.callback?.(widget.value);
    }
    app.canvas.selectNode?.(node, false);
    trainer.graph.setDirtyCanvas(true, true);
    return node;
}

/** The list's own writing of a name: on Windows it has backslashes. */
function matching(values, name) {
    const same = (value) => String(value).replaceAll("\\", "/") === name.replaceAll("\\", "/");
    return (Array.isArray(values) ? values.find(same) : null) ?? name;
}
