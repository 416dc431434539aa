"""What of the text encoders is trained: new tokens and a LoRA, and the conditions that come of them."""
