"""The example workflows as data, and what writes and draws them."""
