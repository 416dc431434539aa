/** What goes on only while a node stands in a graph. A copied node is made twice, and once never gets into one. */

/**
 * @param {any} node
 * @param {() => (() => void)} start Called when the node is added to a graph, again when it is added again; gives
 *     what ends it, which is called when the node is removed.
 */
export function whileInGraph(node, start) {
    let end = node.graph ? start() : null;
    chain(node, "onAdded", () => {
        end ??= start();
    });
    chain(node, "onRemoved", () => {
        end?.();
        end = null;
    });
}

/** Adds to what a node does at an event; who was there before goes first. */
function chain(node, name, then) {
    const before = node[name];
    node[name] = function (...rest) {
        const answer = before?.apply(this, rest);
        then();
        return answer;
    };
}
