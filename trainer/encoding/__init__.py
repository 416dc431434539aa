"""Pictures and captions as the denoiser reads them: encoded once, kept for later runs, put into batches."""
