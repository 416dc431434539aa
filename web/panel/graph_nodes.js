/** Which node a run belongs to. Execution ids go from the root: "3:12" is node 12 inside of subgraph node 3. */

/** Root graph, also while a subgraph is open in the canvas. */
function rootOf(app) {
    return app.graph?.rootGraph ?? app.graph ?? null;
}

/**
 * @param {any} app ComfyUI's app.
 * @returns {string} Id of the open workflow, "" when it has none.
 */
function workflowOf(app) {
    return String(rootOf(app)?.id ?? "");
}

/**
 * @param {any} app
 * @param {string} executionId
 * @returns {any|null} The node, or null where the open workflow has none there.
 */
function nodeOfExecution(app, executionId) {
    let graph = rootOf(app);
    let node = null;
    for (const id of String(executionId).split(":")) {
        node = graph?.getNodeById?.(/^\d+$/.test(id) ? Number(id) : id) ?? graph?.getNodeById?.(id) ?? null;
        if (!node) return null;
        graph = node.subgraph ?? null;
    }
    return node;
}

/**
 * @param {any} app
 * @param {{node: string, workflow: string}} run
 * @returns {any|null} The node of this workflow that the run is of; a run that names no workflow fits any.
 */
export function nodeOfRun(app, run) {
    if (!run.node || (run.workflow && run.workflow !== workflowOf(app))) return null;
    return nodeOfExecution(app, run.node);
}

/**
 * A copy of a workflow has its id and its nodes' ids, so that what has ended is told apart by its name.
 *
 * @param {any} node A trainer node.
 * @param {string} name Of a run: as the node asked for it, or with a number after it where that was taken.
 * @returns {boolean} Whether the node still asks for this name; true where either is unknown.
 */
export function asksForName(node, name) {
    const widget = node.widgets?.find((each) => each.name === "name");
    const isWired = node.inputs?.some((input) => input.name === "name" && input.link !== null);
    if (!name || !widget || isWired) return true;
    const asked = String(widget.value).trim();
    return name === asked || (name.startsWith(`${asked}-`) && /^\d+$/.test(name.slice(asked.length + 1)));
}

/**
 * @param {any} app
 * @param {(node: any) => void} visit Called with each node, those inside of subgraphs as well, each once.
 */
export function eachNode(app, visit) {
    const seen = new Set();
    const walk = (graph) => {
        if (!graph || seen.has(graph)) return;
        seen.add(graph);
        for (const node of graph.nodes ?? graph._nodes ?? []) {
            visit(node);
            walk(node.subgraph);
        }
    };
    walk(rootOf(app));
}
