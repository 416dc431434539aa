"""Each trainer shows its own runs only: in a subgraph, beside another trainer, beside another workflow."""

TRAIN = "SDXLTrainer_TrainSDXLLoRA"
INTO_SUBGRAPH = """(types) => {
    const nodes = app.graph.nodes.filter((node) => types.includes(node.type));
    const { node } = app.graph.convertToSubgraph(new Set(nodes));
    return String(node.id);
}"""
OPEN_SUBGRAPH = """(id) => {
    const node = app.graph.nodes.find((node) => String(node.id) === id);
    app.canvas.openSubgraph(node.subgraph, node);
    return String(node.subgraph.nodes.find((inner) => inner.type.startsWith("SDXLTrainer_Train")).id);
}"""
BACK_TO_ROOT = "() => app.canvas.setGraph(app.rootGraph ?? app.graph.rootGraph ?? app.graph)"
SECOND_TRAINER = """({ type, changes }) => {
    const first = app.graph.nodes.find((node) => node.type === type);
    const second = LiteGraph.createNode(type), report = LiteGraph.createNode("PreviewAny");
    app.graph.add(second);
    app.graph.add(report);
    second.pos = [first.pos[0], first.pos[1] + first.size[1] + 100];
    report.pos = [second.pos[0] - 500, second.pos[1]];
    first.inputs.forEach((input, slot) => {
        const link = input.link && app.graph.links[input.link];
        if (link && input.widget === undefined) {
            app.graph.getNodeById(link.origin_id).connect(link.origin_slot, second, input.name);
        }
    });
    for (const widget of second.widgets) {
        const same = first.widgets.find((other) => other.name === widget.name);
        if (same && same.options?.serialize !== false) widget.value = changes[widget.name] ?? same.value;
    }
    second.connect(second.outputs.findIndex((output) => output.name === "report"), report, 0);
    return String(second.id);
}"""
QUEUE_ELSEWHERE = """async ({ type, name }) => {
    const { output, workflow } = await app.graphToPrompt();
    for (const node of Object.values(output)) if (node.class_type === type) node.inputs.name = name;
    workflow.id = "00000000-0000-4000-8000-000000000000";
    const body = JSON.stringify({ prompt: output, extra_data: { extra_pnginfo: { workflow } } });
    const headers = { "Content-Type": "application/json" };
    return (await (await app.api.fetchApi("/prompt", { method: "POST", headers, body })).json()).prompt_id;
}"""


def test_a_trainer_in_a_subgraph_shows_its_run(page, open_training, training_page, shoot):
    open_training(page, "inside", 4000, preview_every=500)
    outer = page.do(INTO_SUBGRAPH, [TRAIN, "SDXLTrainer_PreviewSettings"])
    page.queue()
    page.settle()
    inner = page.do(OPEN_SUBGRAPH, outer)
    panel = training_page.Panel(page, f"{outer}:{inner}")
    page.show(TRAIN)
    panel.wait_for_points(5)
    panel.wait_for_pictures(1)
    shoot(page, "in_a_subgraph")
    before, _ = panel.numbers()
    page.do(BACK_TO_ROOT)
    page.settle()
    page.do(OPEN_SUBGRAPH, outer)
    page.show(TRAIN)
    panel.wait_for_points(before + 5)
    panel.press("finish")
    panel.wait_for_state("done")


def test_two_trainers_in_one_graph_show_each_its_own(page, open_training, training_page, client):
    first = open_training(page, "left", 12)
    other = page.do(SECOND_TRAINER, {"type": TRAIN, "changes": {"name": "right", "steps": 17}})
    second = training_page.Panel(page, other)
    page.queue()
    for panel in (first, second):
        panel.wait_for_state("done")
    for panel, name, steps in ((first, "left", 12), (second, "right", 17)):
        state = client.get(f"/sdxl_trainer/runs/{panel.run}")
        assert (state["name"], state["num_steps"]) == (name, steps)
        page.show_node(panel.root.get_attribute("data-node"))
        panel.wait_for_points(steps)
        assert panel.numbers() == (steps, steps)


def test_the_same_graph_queued_from_elsewhere_leaves_the_panel_alone(page, open_training, client):
    panel = open_training(page, "mine", 8)
    page.queue()
    panel.wait_for_state("done")
    run = panel.run
    prompt = page.do(QUEUE_ELSEWHERE, {"type": TRAIN, "name": "theirs"})
    ended = client.wait(prompt)
    assert ended["status"]["status_str"] == "success"
    (theirs,) = [state for state in client.get("/sdxl_trainer/runs")["runs"] if state["prompt"] == prompt]
    page.settle()
    assert theirs["node"] == panel.root.get_attribute("data-node")
    assert panel.run == run != theirs["id"]
    assert panel.numbers() == (8, 8)


def test_a_run_of_the_same_graph_queued_again_takes_the_panel(page, open_training):
    panel = open_training(page, "once", 6)
    page.queue()
    panel.wait_for_state("done")
    first = panel.run
    page.change(TRAIN, name="twice")
    page.queue()
    page.wait(
        "([selector, run]) => document.querySelector(selector).dataset.run !== run", [panel.selector, first]
    )
    panel.wait_for_state("done")
    assert panel.numbers() == (6, 6)
