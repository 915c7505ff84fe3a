"""LoRA files of any trainer."""
