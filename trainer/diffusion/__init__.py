"""The mathematics of a denoising step: noise, timesteps, targets, losses and their weights."""
