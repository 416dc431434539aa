"""How the weights move: optimizers, learning-rate schedules, running means."""
