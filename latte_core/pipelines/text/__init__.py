"""Text-to-video and text-to-image."""
