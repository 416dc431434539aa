/** When a run ends well while this tab looks on: loaders list the new file, and a toast says so. */

import { refreshLists } from "./apply_node.js";

const LIFE_MS = 12000;

/**
 * @param {any} app ComfyUI's app.
 * @param {import("./run_store.js").RunStore} store
 * @param {import("./texts.js").Texts} texts
 */
export function tellWhenDone(app, store, texts) {
    store.addEventListener("done", async ({ detail }) => {
        const state = store.run(detail.id)?.state;
        if (!state || state.is_reloaded) return;
        if (state.lora_file) await refreshLists(app);
        const words = state.trigger_words && texts.text("toast.trigger_words", { words: state.trigger_words });
        app.extensionManager.toast.add({
            severity: "success",
            summary: texts.text("toast.done", { name: state.name }),
            detail: [state.lora_file, state.embedding, words].filter(Boolean).join("\n"),
            life: LIFE_MS,
        });
    });
}
