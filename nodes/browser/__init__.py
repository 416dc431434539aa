"""What a browser is told of runs and datasets, and what it may ask: states, events, routes.

Nothing here holds a model, a tensor or a path that a browser named: it picks from what is known by id.
"""
