"""The Hugging Face hub: datasets and files from it, and its faults as sentences that people understand."""
