"""What is trained beside the frozen UNet: LoRA, DoRA, LoHa and LoKr."""
