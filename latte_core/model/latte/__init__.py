"""Latte, the class-conditional and unconditional transformer."""
