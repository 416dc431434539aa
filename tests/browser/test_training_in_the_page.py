"""A run from the Run button to the picture sampled with the new LoRA, watched and ended in the page."""

NAME, STEPS = "watched", 3000
TRAIN = "SDXLTrainer_TrainSDXLLoRA"
LORA_LISTS = """() => app.graph.nodes
    .filter((node) => ["LoraLoader", "SDXLTrainer_ApplyLoRA"].includes(node.type))
    .map((node) => {
        const { values } = node.widgets.find((widget) => widget.name === "lora_name").options;
        return typeof values === "function" ? values() : values;
    })"""
ADD_LOADERS = """() => ["LoraLoader", "SDXLTrainer_ApplyLoRA"].forEach((type, index) => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = [400 * index, -700];
})"""
SAVED_PICTURE = """() => {
    const images = app.graph.nodes.find((node) => node.type === "SaveImage").imgs ?? [];
    return images.length > 0 && images.every((image) => image.complete && image.naturalWidth > 0);
}"""


def test_finish_now_gives_a_picture_sampled_with_the_new_lora(
    page, open_training, client, training_page, base_directory, shoot
):
    panel = open_training(page, NAME, STEPS, preview_every=30)
    page.do(ADD_LOADERS)
    assert all(f"{NAME}.safetensors" not in names for names in page.do(LORA_LISTS))
    page.queue()
    panel.wait_for_points(5)
    shoot(page, "training_begins")
    few, _ = panel.numbers()
    panel.wait_for_points(few + 20)
    panel.wait_for_pictures(2)  # before the first step and at step 30
    shoot(page, "training_under_way")

    panel.press("finish")
    panel.wait_for_state("done")
    page.fit()  # a frontend fetches pictures when their node is drawn
    page.wait(SAVED_PICTURE)
    shoot(page, "finished_early")
    ended = client.wait(client.get(f"/sdxl_trainer/runs/{panel.run}")["prompt"])
    assert ended["status"]["status_str"] == "success"
    prompt = ended["prompt"][2]
    (train,) = [key for key, node in prompt.items() if node["class_type"] == TRAIN]
    (sampler,) = [node for node in prompt.values() if node["class_type"] == "KSampler"]
    assert sampler["inputs"]["model"] == [train, 0]
    steps = len(training_page.metrics(base_directory, NAME))
    assert few <= steps < STEPS
    assert panel.numbers()[1] == steps

    toast = page.tab.locator(".p-toast-message", has_text=NAME)
    toast.first.wait_for()
    assert "zorp" in toast.first.inner_text()
    page.wait(f"(file) => ({LORA_LISTS})().every((names) => names.includes(file))", f"{NAME}.safetensors")
    assert page.do(
        """(file) => LiteGraph.createNode("LoraLoader").widgets.find((w) => w.name === "lora_name")
            .options.values.includes(file)""",
        f"{NAME}.safetensors",
    )
