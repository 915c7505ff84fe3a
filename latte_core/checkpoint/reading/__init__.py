"""Files from outside: what they are, checked before any tensor is made."""
